// The exporters of all nodes, as far as a Prometheus server knows of them; else this one alone.

import type { JSX } from "preact";
import type { Node, Nodes, Tenants } from "../api";
import { useShared } from "../context";
import { useData } from "../data";
import { failureOf } from "../failures";
import { bytes, cores, seconds } from "../format";
import { rankOf, StateChip } from "../parts/Chip";
import { Waiting } from "../parts/Waiting";
import { Completeness, States } from "../parts/States";
import { Table, type Column } from "../parts/Table";
import { matches } from "../rows";
import { Taken } from "./Resources";
import { WithCommands } from "../parts/WithCommands";

/** This exporter, by what it says of itself and its tenants. */
function own({ tenants, exporter }: Tenants, instance: string, version: string): Node {
  const sandboxes: Record<string, number> = {};
  for (const [state, number] of tenants.flatMap((row) => Object.entries(row.sandboxes))) sandboxes[state] = (sandboxes[state] ?? 0) + number;
  const known = tenants.flatMap(({ capture_completeness_ratio: ratio }) => ratio ?? []);
  const budget = (name: string): { taken: number; limit: number } | undefined => exporter?.budgets.find((budget) => budget.name === name);
  return {
    instance,
    job: "",
    up: true,
    version,
    sandboxes,
    completeness_ratio_min: known.length > 0 ? Math.min(...known) : null,
    resident_bytes: exporter?.resident_bytes ?? null,
    memory_limit_bytes: budget("memory_bytes")?.limit ?? null,
    accounted_bytes: budget("resident_bytes")?.taken ?? null,
    accounted_bytes_limit: budget("resident_bytes")?.limit ?? null,
    ingest_cpu_cores: null,
    last_scrape_duration_seconds: null,
  };
}

export function NodesOf({ tenants }: { tenants: Tenants }): JSX.Element {
  const { view, text, viewer } = useShared();
  const { data, error } = useData<Nodes>("/api/v1/nodes");
  // Then this node alone is shown, which needs none.
  const withoutServer = error !== null && failureOf(error).ofServer;
  const alone = [own(tenants, text("thisNode"), viewer.version)];
  const all = data?.configured === true ? data.nodes : alone;
  const rows = all.filter((node) => matches(view.filter, node.instance, node.job, ...Object.keys(node.sandboxes)) || all === alone);
  const columns: Column<Node>[] = [
    {
      id: "node",
      head: text("node"),
      value: (node) => node.instance,
      cell: (node) => (
        <>
          <span class="name">{node.instance}</span>
          <span class="under">{[node.job, node.version].filter(Boolean).join(" · ")}</span>
        </>
      ),
    },
    { id: "state", head: text("state"), value: (node) => rankOf(node.up ? "up" : "down"), cell: ({ up }) => <StateChip of={up ? "up" : "down"} /> },
    { id: "sandboxes", head: text("sandboxes"), value: (node) => Object.values(node.sandboxes).reduce((sum, number) => sum + number, 0), cell: (node) => <States of={node.sandboxes} /> },
    {
      id: "completeness",
      head: text("completeness"),
      numeric: true,
      value: (node) => node.completeness_ratio_min,
      cell: (node) => <Completeness of={node.completeness_ratio_min} />,
    },
    {
      id: "memory",
      head: text("memory"),
      numeric: true,
      value: (node) => node.resident_bytes,
      cell: (node) => <Taken taken={node.resident_bytes} limit={node.memory_limit_bytes} format={bytes} />,
    },
    {
      id: "accounted",
      head: text("resident_bytes"),
      numeric: true,
      wide: true,
      value: (node) => node.accounted_bytes,
      cell: (node) => <Taken taken={node.accounted_bytes} limit={node.accounted_bytes_limit} format={bytes} />,
    },
    { id: "cpu", head: text("ingestCpu"), numeric: true, wide: true, value: (node) => node.ingest_cpu_cores, cell: (node) => cores(node.ingest_cpu_cores) },
    {
      id: "scrape",
      head: text("scrapeTime"),
      numeric: true,
      wide: true,
      value: (node) => node.last_scrape_duration_seconds,
      cell: (node) => seconds(node.last_scrape_duration_seconds),
    },
  ];
  return (
    <section>
      <h2>
        {text("nodes")} <span class="count">{rows.length}</span>
      </h2>
      {data === null && !withoutServer ? (
        <Waiting error={error} />
      ) : (
        <Table caption={text("nodes")} columns={columns} rows={rows} id={(node) => `${node.job}\u0000${node.instance}`} sort="state" />
      )}
      {withoutServer && <p class="note bad">{text("nodesRefused")}</p>}
      {data !== null && !data.configured && (
        <p class="note">
          <WithCommands of={text("nodesAlone")} />
        </p>
      )}
      {data !== null && data.nodes_left_out > 0 && (
        <p class="note">
          {data.nodes_left_out} {text("nodesLeftOut")}
        </p>
      )}
    </section>
  );
}
