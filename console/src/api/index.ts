// The HTTP API of the console's server: a file for each thing, put together here.

import { coordinationApi } from "./coordination";
import { gatewayApi } from "./gateway";
import { act } from "./http";
import { lettersApi } from "./letters";
import { overviewApi } from "./overview";
import { proofApi } from "./proof";
import { reportsApi } from "./reports";
import { sagasApi } from "./sagas";
import { tasksApi } from "./tasks";
import { topicsApi } from "./topics";
import { traceApi } from "./trace";

export * from "./coordination";
export * from "./gateway";
export { ApiError, saidBy } from "./http";
export * from "./letters";
export * from "./overview";
export * from "./proof";
export * from "./reports";
export * from "./sagas";
export * from "./tasks";
export * from "./topics";
export * from "./trace";

export const api = {
  ...overviewApi,
  ...traceApi,
  ...lettersApi,
  ...topicsApi,
  ...sagasApi,
  ...tasksApi,
  ...reportsApi,
  ...gatewayApi,
  ...coordinationApi,
  ...proofApi,
  openSession: async (key: string) => {
    await act("/api/session", { key });
  },
};
