// Who is there, who leads.

import { get } from "./http";

export interface Coordination {
  instances: { service: string; instance: string; address: string }[];
  leaders: { name: string; candidate: string; fencing_token: number }[];
  machine_ids: { number: number; holder: string }[];
}

export const coordinationApi = {
  coordination: (signal: AbortSignal) => get<Coordination>("/api/coordination", signal),
};
