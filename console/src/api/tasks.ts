// Task queues.

import { get } from "./http";

/** What a task queue holds. */
export interface TaskQueue {
  queue: string;
  waiting: number;
  delayed: number;
  at_work: number;
  /** Given up, and not decided upon. */
  dead: number;
  oldest_seconds: number | null;
  by_priority: { high: number; normal: number; low: number };
}

export const tasksApi = {
  tasks: (signal: AbortSignal) => get<TaskQueue[]>("/api/tasks", signal),
};
