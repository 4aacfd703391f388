import {
  keepPreviousData,
  QueryClient,
  queryOptions,
  useMutation,
  useQueryClient,
} from "@tanstack/react-query";
import { ApiError, api, type Trace } from "./api";
import { hasArrived } from "./stations";

const EACH_SECOND = 1_000;
const OFTEN = 2_000;
const SELDOM = 5_000;
export const DEAD_LETTERS_SHOWN = 200;

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

export const lagQuery = queryOptions({
  queryKey: ["lag"],
  queryFn: ({ signal }) => api.lag(signal),
  refetchInterval: OFTEN,
});

export const traceQuery = (identity: string) =>
  queryOptions({
    queryKey: ["trace", identity],
    queryFn: ({ signal }) => api.trace(identity, signal),
    refetchInterval: (query) => (isUnderWay(query.state.data) ? OFTEN : false),
  });

export const deadLettersQuery = (pipeline: string) =>
  queryOptions({
    queryKey: ["dead-letters", pipeline],
    queryFn: ({ signal }) => api.deadLetters(pipeline, DEAD_LETTERS_SHOWN, signal),
    refetchInterval: OFTEN,
    placeholderData: keepPreviousData,
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

export function useReplay() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: (id: string) => api.replay(id),
    onSettled: () => client.invalidateQueries({ queryKey: ["dead-letters"] }),
  });
}

export function isUnauthorised(error: Error | null): boolean {
  return error instanceof ApiError && error.status === 401;
}

/** No answer at all, in contrast to one that says no. */
export function isUnreachable(error: Error | null): boolean {
  return error !== null && !(error instanceof ApiError);
}

function isUnderWay(trace: Trace | undefined): boolean {
  return trace === undefined || !hasArrived(trace.steps);
}
