import {
  keepPreviousData,
  QueryClient,
  queryOptions,
  useMutation,
  useQuery,
  useQueryClient,
} from "@tanstack/react-query";
import { ApiError, api, type Saga, type SagaFilter, type Trace } from "./api";
import type { LetterFilter } from "./letters";
import { hasArrived } from "./stations";

const EACH_SECOND = 1_000;
const OFTEN = 2_000;
const SELDOM = 5_000;
export const DEAD_LETTERS_SHOWN = 100;

export function createQueryClient(): QueryClient {
  return new QueryClient({
    defaultOptions: {
      // The next poll is the retry, and a server on this machine is there without a network.
      queries: { retry: false, networkMode: "always", staleTime: EACH_SECOND },
      mutations: { retry: false, networkMode: "always" },
    },
  });
}

export const overviewQuery = queryOptions({
  queryKey: ["overview"],
  queryFn: ({ signal }) => api.overview(signal),
  refetchInterval: (query) => (isUnauthorised(query.state.error) ? SELDOM : EACH_SECOND),
});

export const processLogQuery = (name: string) =>
  queryOptions({
    queryKey: ["process-log", name],
    queryFn: ({ signal }) => api.processLog(name, signal),
    refetchInterval: OFTEN,
  });

export const lagQuery = queryOptions({
  queryKey: ["lag"],
  queryFn: ({ signal }) => api.lag(signal),
  refetchInterval: OFTEN,
});

export const topicsQuery = queryOptions({
  queryKey: ["topics"],
  queryFn: ({ signal }) => api.topics(signal),
  refetchInterval: OFTEN,
});

export const traceQuery = (identity: string) =>
  queryOptions({
    queryKey: ["trace", identity],
    queryFn: ({ signal }) => api.trace(identity, signal),
    refetchInterval: (query) => (isUnderWay(query.state.data) ? OFTEN : false),
  });

export const deadLettersQuery = (filter: LetterFilter, before: string) =>
  queryOptions({
    queryKey: ["dead-letters", "list", filter, before],
    queryFn: ({ signal }) => api.deadLetters(filter, before, DEAD_LETTERS_SHOWN, signal),
    refetchInterval: OFTEN,
    placeholderData: keepPreviousData,
  });

export const deadLetterQuery = (id: string) =>
  queryOptions({
    queryKey: ["dead-letters", "letter", id],
    queryFn: ({ signal }) => api.deadLetter(id, signal),
    refetchInterval: OFTEN,
  });

export const waitingLettersQuery = queryOptions({
  queryKey: ["dead-letters", "waiting"],
  queryFn: ({ signal }) => api.waiting(signal),
  refetchInterval: OFTEN,
});

export const sagasQuery = (filter: SagaFilter, before: string) =>
  queryOptions({
    queryKey: ["sagas", "list", filter, before],
    queryFn: ({ signal }) => api.sagas(filter, before, signal),
    refetchInterval: SELDOM,
    placeholderData: keepPreviousData,
  });

export const sagaQuery = (id: string) =>
  queryOptions({
    queryKey: ["sagas", "saga", id],
    queryFn: ({ signal }) => api.saga(id, signal),
    refetchInterval: (query) => (areEnded(query.state.data) ? SELDOM : OFTEN),
  });

export const tasksQuery = queryOptions({
  queryKey: ["tasks"],
  queryFn: ({ signal }) => api.tasks(signal),
  refetchInterval: SELDOM,
});

export const reportsQuery = queryOptions({
  queryKey: ["reports"],
  queryFn: ({ signal }) => api.reports(signal),
  refetchInterval: OFTEN,
});

export const reportQuery = (name: string) =>
  queryOptions({
    queryKey: ["reports", name],
    queryFn: ({ signal }) => api.report(name, signal),
    refetchInterval: SELDOM,
  });

export const gatewayQuery = queryOptions({
  queryKey: ["gateway"],
  queryFn: ({ signal }) => api.gateway(signal),
  refetchInterval: OFTEN,
});

export const coordinationQuery = queryOptions({
  queryKey: ["coordination"],
  queryFn: ({ signal }) => api.coordination(signal),
  refetchInterval: OFTEN,
});

export const proofQuery = queryOptions({
  queryKey: ["proof"],
  queryFn: ({ signal }) => api.proof(signal),
  refetchInterval: SELDOM,
});

/** An act on what is shown under a name, which is asked for again when the act has ended. */
export function useAct<Given, Answer>(shown: string, act: (given: Given) => Promise<Answer>) {
  const client = useQueryClient();
  return useMutation({
    mutationFn: act,
    onSettled: () => client.invalidateQueries({ queryKey: [shown] }),
  });
}

/** An act on dead letters. */
export function useLetterAct<Given, Answer>(act: (given: Given) => Promise<Answer>) {
  return useAct("dead-letters", act);
}

/** Why this console may not act, or nothing if it may. */
export function useReadOnlyReason(): string {
  const { data } = useQuery(overviewQuery);
  if (data === undefined) return "Whether this console may do that is not known yet.";
  return data.read_only
    ? "This console is read-only: read_only is set in [console] of counterfoil.toml."
    : "";
}

export function isUnauthorised(error: Error | null): boolean {
  return error instanceof ApiError && error.status === 401;
}

/** No answer at all, in contrast to one that says no. */
export function isUnreachable(error: Error | null): boolean {
  return error !== null && !(error instanceof ApiError);
}

function areEnded(sagas: Saga[] | undefined): boolean {
  return sagas?.every((saga) => saga.ended_us !== null) ?? false;
}

function isUnderWay(trace: Trace | undefined): boolean {
  return trace === undefined || !hasArrived(trace.steps);
}
