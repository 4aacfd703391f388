import type { ReactNode } from "react";
import type { Handled } from "../api";
import { formatMoney } from "../format";

/** What a handler would do with a letter, or why it fails again; nothing of it has stayed. */
export function HandledView({ handled }: { handled: Handled }) {
  return (
    <div className="handled" role="status" aria-label="What its handler would do">
      {handled.error !== null ? (
        <p className="error-line">It would fail again: {handled.error}</p>
      ) : (
        <>
          <p>
            <strong>Its handler would take it:</strong> {handled.said}. All of it was undone.
          </p>
          <ul>{deedsOf(handled)}</ul>
        </>
      )}
    </div>
  );
}

function deedsOf(handled: Handled): ReactNode[] {
  return [
    ...handled.transfers.map((each) => (
      <li key={`transfer ${each.id}`}>
        Transfer {each.id}: {each.debit} to {each.credit}, {formatMoney(each.amount)}{" "}
        {each.currency}, {each.code}
      </li>
    )),
    ...handled.emitted.map((each, index) => (
      // biome-ignore lint/suspicious/noArrayIndexKey: events have no id of their own, nor an order that changes
      <li key={`event ${index}`}>
        Event on {each.topic}, key {each.key}: <code>{each.value}</code>
      </li>
    )),
    ...handled.state.map((each) => (
      <li key={`state ${each.key}`}>
        State of {each.key}: {each.value === null ? "deleted" : <code>{each.value}</code>}
      </li>
    )),
    ...handled.written.map((each, index) => (
      // biome-ignore lint/suspicious/noArrayIndexKey: statements in the order in which they ran
      <li key={`rows ${index}`}>
        {each.statement} {each.table}: {each.rows} rows
      </li>
    )),
  ];
}
