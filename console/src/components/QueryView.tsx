import type { UseQueryResult } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { ApiError } from "../api";
import { formatClock } from "../format";
import { Empty } from "./Empty";

interface Props<T> {
  query: UseQueryResult<T, Error>;
  /** The command that makes an answer possible. */
  command: string;
  children: (data: T) => ReactNode;
}

/** What a query holds, or why it holds nothing; old data stays, and is called old. */
export function QueryView<T>({ query, command, children }: Props<T>) {
  const { data, error } = query;
  if (data === undefined && error) {
    return (
      <Empty title={error instanceof ApiError ? error.message : "No answer yet"} command={command}>
        {error instanceof ApiError ? error.detail : "The console asks again by itself."}
      </Empty>
    );
  }
  if (data === undefined) return <p className="loading">Loading</p>;
  return (
    <>
      {error instanceof ApiError && (
        <p className="banner" role="status">
          <strong>{error.message}.</strong> {error.detail} What you see is from{" "}
          {formatClock(query.dataUpdatedAt)} UTC.
        </p>
      )}
      {children(data)}
    </>
  );
}
