import { useSyncExternalStore } from "react";
import { ApiError, api } from "./api";

/** `refused`: the key in the address was not accepted; `asking`: it is being exchanged. */
export type Session = "asking" | "settled" | "refused";

const PREFIX = "#key=";
let session: Session = "settled";
const listeners = new Set<() => void>();

/** Exchange a key in the address for a session's cookie, now and whenever one is pasted. */
export function watchAddress(): void {
  void exchangeKey();
  window.addEventListener("hashchange", () => void exchangeKey());
}

export function useSession(): Session {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => session,
  );
}

async function exchangeKey(): Promise<void> {
  const { hash, pathname, search } = window.location;
  if (!hash.startsWith(PREFIX)) return;
  // Out of the address at once: it must not stay in the history.
  window.history.replaceState(null, "", pathname + search);
  become("asking");
  try {
    await api.openSession(decodeURIComponent(hash.slice(PREFIX.length)));
    become("settled");
  } catch (error) {
    become(error instanceof ApiError ? "refused" : "settled");
  }
}

function become(next: Session): void {
  session = next;
  for (const listener of listeners) listener();
}
