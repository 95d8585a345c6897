// What an operator has to look at.

import type { JSX } from "preact";
import type { Sandbox, Tenants } from "../api";
import { useShared } from "../context";
import { count, ratio, seconds, share } from "../format";
import { amount, budgetName } from "../parts/Budget";
import { TenantLink } from "../parts/ApplicationLink";
import { Table, type Column } from "../parts/Table";
import { matches } from "../rows";
import { troubles, type Trouble } from "../troubles";
import type { Text } from "../text";

/** What is the matter, in a word and with its numbers. */
function inWords(trouble: Trouble, text: Text): { what: string; grave: boolean; detail: string } {
  switch (trouble.kind) {
    case "budget": {
      const { budget, usedUp } = trouble;
      const taken = `${share(ratio(budget.taken, budget.limit))} (${amount(budget, budget.taken)} ${text("of")} ${amount(budget, budget.limit)})`;
      return { what: text(usedUp ? "budgetUsedUp" : "budgetNear"), grave: usedUp, detail: `${budgetName(budget, text)}: ${taken}` };
    }
    case "completeness":
      return { what: text("incomplete"), grave: true, detail: share(trouble.ratio) };
    case "sandboxes":
      return { what: `${count(trouble.count)} ${text("notMonitored")}`, grave: true, detail: [trouble.reason, trouble.message].filter(Boolean).join(": ") };
    case "throttled":
      return { what: text("throttled"), grave: false, detail: seconds(trouble.seconds) };
    case "rejected":
      return { what: text("rejected"), grave: false, detail: `${trouble.reason}: ${count(trouble.count)}` };
  }
}

export function Troubles({ tenants, sandboxes }: { tenants: Tenants; sandboxes: readonly Sandbox[] }): JSX.Element {
  const { view, text } = useShared();
  const found = troubles(tenants, sandboxes).map((trouble) => ({ ...inWords(trouble, text), tenant: trouble.tenant }));
  const rows = found.filter((row) => matches(view.filter, row.tenant ?? "", row.what, row.detail));
  const columns: Column<(typeof rows)[number]>[] = [
    { id: "tenant", head: text("tenant"), cell: (row) => (row.tenant === null ? <span class="name">{text("exporter")}</span> : <TenantLink of={row.tenant} />) },
    { id: "what", head: text("matter"), cell: (row) => <span class={`chip ${row.grave ? "burning" : "missed"}`}>{row.what}</span> },
    { id: "detail", head: text("detail"), cell: (row) => <span class="name">{row.detail}</span> },
  ];
  return (
    <section>
      <h2>
        {text("troubles")} <span class="count">{found.length}</span>
      </h2>
      {rows.length === 0 ? (
        <p class="note" role="status">
          {text(found.length === 0 ? "noTroubles" : "noMatch")}
        </p>
      ) : (
        <Table caption={text("troubles")} columns={columns} rows={rows} id={(row) => `${row.tenant ?? ""}\u0000${row.what}\u0000${row.detail}`} sort="" />
      )}
      <p class="note">{text("troublesNote")}</p>
    </section>
  );
}
