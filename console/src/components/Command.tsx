import { useQuery } from "@tanstack/react-query";
import { typed } from "../commands";
import { overviewQuery } from "../queries";

/** A command for the application of this console, as it was seen last. */
export function Command({ text, alone = false }: { text: string; alone?: boolean }) {
  const { data } = useQuery({ ...overviewQuery, enabled: false });
  return <code className={alone ? "command" : undefined}>{typed(text, data)}</code>;
}
