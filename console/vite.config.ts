import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

const server = "http://127.0.0.1:8460";

export default defineConfig({
  plugins: [react()],
  build: {
    outDir: "../src/counterfoil/console/static",
    emptyOutDir: true,
    // Everything is a file of its own, so that a strict Content-Security-Policy needs no data: URLs.
    assetsInlineLimit: 0,
  },
  server: { proxy: { "/api": server, "/reports/": server } },
  test: { include: ["src/**/*.test.ts"] },
});
