// A table that is sorted by any of its columns and filtered before; long ones are shown in parts.

import { type ComponentChildren, type JSX } from "preact";
import { useState } from "preact/hooks";
import { useShared } from "../context";
import { compare } from "../rows";

export interface Column<Row> {
  id: string;
  head: string;
  /** By what it is sorted; a column without cannot be. */
  value?: ((row: Row) => string | number | null) | undefined;
  cell: (row: Row) => ComponentChildren;
  numeric?: boolean;
  /** Not on narrow screens. */
  wide?: boolean;
}

interface Props<Row> {
  caption: string;
  columns: Column<Row>[];
  rows: readonly Row[];
  id: (row: Row) => string;
  /** Column that it is sorted by at first, `-` before it for descending. */
  sort: string;
  /** Whether its order is part of the address; one table of a page can be. */
  addressed?: boolean;
}

/** Rows that are shown at first. */
const SHOWN = 100;

export function Table<Row>({ caption, columns, rows, id, sort: first, addressed = false }: Props<Row>): JSX.Element {
  const { view, show, text } = useShared();
  const [own, setOwn] = useState(first);
  const [shown, setShown] = useState(SHOWN);
  const sort = addressed ? (view.sort ?? first) : own;
  const descending = sort.startsWith("-");
  const by = columns.find((column) => column.id === sort.replace(/^-/, "") && column.value) ?? columns.find((column) => column.value);
  const value = by?.value;
  const sorted = value ? [...rows].sort((a, b) => compare(value(a), value(b), descending)) : rows;
  const turn = (column: Column<Row>): void => {
    const downFirst = column.numeric ?? false;
    const down = column === by ? !descending : downFirst;
    const next = `${down ? "-" : ""}${column.id}`;
    if (addressed) show({ ...view, sort: next === first ? null : next }, true);
    else setOwn(next);
  };
  const label = (column: Column<Row>): string => (column.wide ? "wide" : "") + (column.numeric ? " number" : "");
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={caption}>
      <table>
        <caption class="hidden">{caption}</caption>
        <thead>
          <tr>
            {columns.map((column) => (
              <th
                key={column.id}
                scope="col"
                class={label(column)}
                aria-sort={column === by ? (descending ? "descending" : "ascending") : undefined}
              >
                {column.value ? (
                  <button
                    type="button"
                    onClick={() => {
                      turn(column);
                    }}
                  >
                    {column.head}
                    <span aria-hidden="true" class="arrow">
                      {column === by ? (descending ? "▼" : "▲") : ""}
                    </span>
                  </button>
                ) : (
                  column.head
                )}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {sorted.slice(0, shown).map((row) => (
            <tr key={id(row)}>
              {columns.map((column) => (
                <td key={column.id} class={label(column)}>
                  {column.cell(row)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
      {sorted.length > shown && (
        <button
          type="button"
          class="more"
          onClick={() => {
            setShown(shown + 5 * SHOWN);
          }}
        >
          {text("showMore")} ({sorted.length - shown} {text("more")})
        </button>
      )}
    </div>
  );
}
