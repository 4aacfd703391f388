import { useMemo, useState } from "react";
import type { Cell, Section } from "../api";
import { formatCount } from "../format";
import { formatCell, isNumeric, type Order, sortRows } from "../report";
import { type Column, DataTable } from "./DataTable";

const ROWS_AT_A_TIME = 30;

interface Props {
  label: string;
  section: Section;
  amounts: readonly string[];
  corrected: Record<string, string>;
}

/** The rows of a section: sortable, the newest day first, a handful at a time. */
export function SectionTable({ label, section, amounts, corrected }: Props) {
  const [order, setOrder] = useState<Order>({ column: 0, direction: "descending" });
  const [limit, setLimit] = useState(ROWS_AT_A_TIME);
  const rows = useMemo(() => sortRows(section.rows, order), [section.rows, order]);
  const columns = section.columns.map((name, index): Column<Cell[]> => {
    const numeric = isNumeric(section, index);
    const isMoney = amounts.includes(name);
    return {
      name,
      numeric,
      heading: index === 0,
      sort: order.column === index ? order.direction : "none",
      onSort: () => setOrder(nextOrder(order, index, numeric)),
      cell: (row) => {
        const text = formatCell(row[index], isMoney);
        const isCorrected = index === 0 && text in corrected;
        return isCorrected ? (
          <>
            {text} <span className="tag">corrected</span>
          </>
        ) : (
          text
        );
      },
    };
  });
  return (
    <>
      <DataTable
        label={label}
        columns={columns}
        rows={rows.slice(0, limit)}
        rowKey={(row) => row.join("\n")}
        tone={(row) => (String(row[0]) in corrected ? "note" : undefined)}
      />
      <p className="note table-foot">
        {formatCount(Math.min(limit, rows.length))} of {formatCount(rows.length)} rows
        {limit < rows.length && (
          <button type="button" onClick={() => setLimit(limit + ROWS_AT_A_TIME)}>
            Show {Math.min(ROWS_AT_A_TIME, rows.length - limit)} more
          </button>
        )}
      </p>
    </>
  );
}

function nextOrder(order: Order, column: number, numeric: boolean): Order {
  if (order.column === column) {
    return { column, direction: order.direction === "ascending" ? "descending" : "ascending" };
  }
  return { column, direction: numeric || column === 0 ? "descending" : "ascending" };
}
