import type { ReactNode } from "react";

export interface Column<Row> {
  name: string;
  cell: (row: Row) => ReactNode;
  numeric?: boolean;
  /** Left out where there is no room for it. */
  minor?: boolean;
  /** Sentences, which may go over several lines. */
  prose?: boolean;
  /** The cell that names the row. */
  heading?: boolean;
  sort?: "ascending" | "descending" | "none";
  onSort?: () => void;
}

export interface TableProps<Row> {
  label: string;
  columns: Column<Row>[];
  rows: readonly Row[];
  rowKey: (row: Row) => string;
  /** Marks rows that need a look. */
  tone?: (row: Row) => "alarm" | "note" | undefined;
}

export function DataTable<Row>({ label, columns, rows, rowKey, tone }: TableProps<Row>) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls sideways, also by keyboard
    <div className="table-scroll" role="group" aria-label={`${label}, scrollable`} tabIndex={0}>
      <table aria-label={label}>
        <thead>
          <tr>
            {columns.map((column) => (
              <th
                key={column.name}
                scope="col"
                className={classOf(column)}
                aria-sort={column.sort === "none" ? undefined : column.sort}
              >
                {column.onSort ? (
                  <button type="button" className="sort" onClick={column.onSort}>
                    {column.name}
                    <span aria-hidden="true" className="sort-arrow">
                      {column.sort === "ascending" ? "↑" : column.sort === "descending" ? "↓" : ""}
                    </span>
                  </button>
                ) : (
                  column.name
                )}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={rowKey(row)} data-tone={tone?.(row)}>
              {columns.map((column) =>
                column.heading ? (
                  <th key={column.name} scope="row" className={classOf(column)}>
                    {column.cell(row)}
                  </th>
                ) : (
                  <td key={column.name} className={classOf(column)}>
                    {column.cell(row)}
                  </td>
                ),
              )}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function classOf<Row>({ numeric, minor, prose }: Column<Row>): string | undefined {
  const classes = [numeric && "numeric", minor && "minor", prose && "prose"];
  return classes.filter(Boolean).join(" ") || undefined;
}
