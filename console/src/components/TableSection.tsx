import type { ReactNode } from "react";
import { DataTable, type TableProps } from "./DataTable";
import { Section } from "./Page";

interface Props<Row> extends Omit<TableProps<Row>, "label"> {
  title: string;
  aside?: ReactNode;
  /** The table's name, where it is not the title. */
  label?: string;
  /** What stands above the table, with rows or without. */
  above?: ReactNode;
  /** What stands in the table's place as long as it has no rows. */
  empty: ReactNode;
  /** What stands below the rows. */
  children?: ReactNode;
}

/** A section that is one table, or a word on why it has no rows. */
export function TableSection<Row>({
  title,
  aside,
  label = title,
  above,
  empty,
  children,
  ...table
}: Props<Row>) {
  return (
    <Section title={title} aside={aside}>
      {above}
      {table.rows.length > 0 ? (
        <>
          <DataTable label={label} {...table} />
          {children}
        </>
      ) : (
        empty
      )}
    </Section>
  );
}
