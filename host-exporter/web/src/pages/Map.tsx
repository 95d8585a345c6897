// Who calls whom: a picture, and the same as a table.

import type { JSX } from "preact";
import { useMemo } from "preact/hooks";
import { path, Refused, type Topology, type Viewer } from "../api";
import { useShared } from "../context";
import { useData } from "../data";
import { fails, joined, type Edge } from "../edges";
import { count, rate, ratio, seconds, share } from "../format";
import { chosen, curve, NODE, place, type Node } from "../layout";
import { errorShare, quantiles, Trouble } from "../parts/columns";
import { Empty } from "../parts/Empty";
import { Link } from "../parts/Link";
import { OtherTime } from "../parts/Past";
import { Table, type Column } from "../parts/Table";
import { Waiting } from "../parts/Waiting";
import { OWN_RANGE, timeOf } from "../past";
import { matches } from "../rows";
import type { Key, Text } from "../text";
import { format, to, type View } from "../view";

/** Names that are longer are cut in the picture; the table has them whole. */
const NAME_MAX = 22;

function short(name: string): string {
  const letters = Array.from(name);
  return letters.length > NAME_MAX ? `${letters.slice(0, NAME_MAX - 1).join("")}…` : name;
}

const KINDS: Record<string, Key> = {
  application: "anApplication",
  database: "database",
  broker: "broker",
  "name-server": "nameServer",
  outside: "outside",
  "another-tenant": "anotherTenant",
};

/** What a node is, in a word. */
function kindOf(node: Node, text: Text): string {
  // Nobody's address, and no name: those who call without being observed.
  if (node.kind === "outside" && node.name === "") return text("callers");
  const known = KINDS[node.kind];
  return known === undefined ? node.kind : text(known);
}

/** What has no name is what it is. */
function nameOf(node: Node, text: Text): string {
  return node.name === "" ? kindOf(node, text) : node.name;
}

/** What is written below a node's name in the picture. */
function second(node: Node, text: Text): string {
  if (node.kind === "application") return node.tenant ?? "";
  const what = node.protocol ?? (node.name === "" ? (node.tenant ?? "") : kindOf(node, text));
  return node.looked_up === true ? `${what} · ${text("lookedUp")}` : what;
}

/** Whether there is a page about it. */
function hasPage(node: Node): boolean {
  return node.kind === "application" && node.monitored !== false;
}

export function MapPage(): JSX.Element {
  const { view, text, viewer } = useShared();
  const loaded = useData<Topology>(path("/api/v1/topology", { seconds: secondsOf(view, viewer) }));
  const { data, error } = loaded;
  const filter = view.filter;
  const parts = useMemo(() => {
    if (data === null) return null;
    const found = chosen(data, (node) => matches(filter, node.name, node.tenant ?? "", node.kind, node.protocol ?? ""));
    return { ...found, placed: place(found.nodes, found.edges, (edge) => label(edge, text)) };
  }, [data, filter, text]);
  const title = (
    <h1>
      {text("map")} {parts !== null && <span class="count">{parts.nodes.size}</span>}
    </h1>
  );
  if (data === null || parts === null) {
    const absent = error instanceof Refused && error.status === 404;
    return (
      <>
        {title}
        {absent ? <Empty what="noMapRoute" hint="noMapRouteHint" /> : <Waiting error={error} />}
      </>
    );
  }
  if (parts.edges.length === 0) {
    return (
      <>
        {title}
        {filter === "" ? <Empty what="noMap" hint="noMapHint" /> : <Empty what="noMatch" hint="noMatchHint" />}
      </>
    );
  }
  return (
    <>
      {title}
      <OtherTime what="mapNow" />
      <Picture parts={parts} />
      {parts.placed.left > 0 && (
        <p class="note">
          {parts.placed.left} {text("edgesLeft")}
        </p>
      )}
      <Edges nodes={parts.nodes} edges={parts.edges} />
    </>
  );
}

/** What is written at an edge. */
function label(edge: Edge, text: Text): string {
  const failed = edge.connections?.failed ?? 0;
  const requests = [rate(edge.rate), edge.errors > 0 ? share(ratio(edge.errors, edge.requests)) : null, seconds(edge.seconds.p99)];
  const connections = failed > 0 ? `${count(failed)} ${text("failedToConnect")}` : null;
  const made = edge.requests === 0 && failed === 0 ? `${count(edge.connections?.made ?? 0)} ${text("connectionsMade")}` : null;
  return [...(edge.requests > 0 ? requests : []), connections, made].filter((part) => part !== null).join(" · ");
}

function Picture({ parts: { nodes, placed } }: { parts: { nodes: ReadonlyMap<string, Node>; placed: ReturnType<typeof place> } }): JSX.Element {
  const { view, text } = useShared();
  return (
    <div class="scroll map" tabIndex={0} role="region" aria-label={text("map")}>
      <svg width={placed.width} height={placed.height} viewBox={`0 0 ${placed.width} ${placed.height}`}>
        <title>{`${text("map")}: ${nodes.size}`}</title>
        <defs>
          <marker id="arrow" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="11" markerHeight="11" markerUnits="userSpaceOnUse" orient="auto-start-reverse">
            <path d="M0 0L8 4L0 8z" />
          </marker>
        </defs>
        {placed.edges.map((edge) => {
          const width = 1.2 + Math.min(3.5, Math.log10(1 + edge.rate) * 1.3);
          return (
            <g key={edge.id} class={fails(edge) ? "edge failing" : "edge"}>
              <path d={curve(edge.points)} stroke-width={width} marker-end="url(#arrow)" />
            </g>
          );
        })}
        {placed.edges.map((edge) => (
          <g key={edge.id} class={fails(edge) ? "label failing" : "label"}>
            <rect
              x={edge.label.x - edge.label.width / 2}
              y={edge.label.y - edge.label.height / 2}
              width={edge.label.width}
              height={edge.label.height}
              rx="6"
            />
            <text x={edge.label.x} y={edge.label.y + 4}>
              {edge.label.text}
            </text>
          </g>
        ))}
        {placed.nodes.map((node) => {
          const box = (
            <g class={`node ${node.kind}`} transform={`translate(${node.x - NODE.width / 2} ${node.y - NODE.height / 2})`}>
              <rect width={NODE.width} height={NODE.height} rx={node.kind === "application" ? 8 : 23} />
              <text x={NODE.width / 2} y="19">
                {short(nameOf(node, text))}
              </text>
              <text x={NODE.width / 2} y="35" class="kind">
                {second(node, text)}
              </text>
              <title>{[nameOf(node, text), node.tenant, node.looked_up === true ? text("lookedUpMeans") : null].filter(Boolean).join(" · ")}</title>
            </g>
          );
          if (!hasPage(node)) return <g key={node.id}>{box}</g>;
          return (
            <a key={node.id} href={format(to(view, "application", { tenant: node.tenant, service: node.name }))}>
              {box}
            </a>
          );
        })}
      </svg>
    </div>
  );
}

/** Who calls an application, as far as it is known. */
export function CallersOf({ tenant, service }: { tenant: string | null; service: string | null }): JSX.Element {
  const { view, text, viewer } = useShared();
  const { data, error } = useData<Topology>(path("/api/v1/topology", { tenant, seconds: secondsOf(view, viewer) }));
  if (data === null) return <Waiting error={error} />;
  const own = data.nodes.filter((node) => node.monitored !== false && node.tenant === tenant && node.name === service);
  const ids = new Set(own.map((node) => node.id));
  const all = joined(data).filter((edge) => ids.has(edge.to));
  const nodes = new Map(data.nodes.map((node) => [node.id, node]));
  const edges = all.filter((edge) => matches(view.filter, nodes.get(edge.from)?.name ?? "", edge.protocol));
  if (edges.length === 0) return all.length > 0 ? <Empty what="noMatch" hint="noMatchHint" /> : <Empty what="noCallers" hint="noCallersHint" />;
  return (
    <>
      <Edges nodes={nodes} edges={edges} caption="callersTab" />
      <p class="note">
        {text("callersNote")} <Link to={to(view, "map", { filter: service ?? "" })}>{text("map")}</Link>
      </p>
    </>
  );
}

/** The last hour at most, which is what the exporter has of it; all of it in place of a time in the past. */
function secondsOf(view: View, viewer: Viewer): number {
  const { range, until } = timeOf(view, viewer);
  return until === null ? Math.min(range, OWN_RANGE) : OWN_RANGE;
}

function Edges({ nodes, edges, caption = "map" }: { nodes: ReadonlyMap<string, Node>; edges: readonly Edge[]; caption?: Key }): JSX.Element {
  const { view, text } = useShared();
  const named = (id: string): string => {
    const node = nodes.get(id);
    return node ? nameOf(node, text) : "";
  };
  const end = (id: string): JSX.Element => {
    const node = nodes.get(id);
    const kind = node === undefined ? "" : kindOf(node, text);
    return (
      <>
        {node && hasPage(node) ? (
          <Link to={to(view, "application", { tenant: node.tenant, service: node.name })} class="name">
            {node.name}
          </Link>
        ) : (
          <span class="name">{named(id)}</span>
        )}
        <span class="under" title={node?.looked_up === true ? text("lookedUpMeans") : undefined}>
          {[kind === named(id) ? null : kind, node?.tenant, node?.looked_up === true ? text("lookedUp") : null].filter(Boolean).join(" · ")}
        </span>
      </>
    );
  };
  const columns: Column<Edge>[] = [
    { id: "from", head: text("from"), value: (edge) => named(edge.from), cell: (edge) => end(edge.from) },
    { id: "to", head: text("to"), value: (edge) => named(edge.to), cell: (edge) => end(edge.to) },
    { id: "protocol", head: text("protocol"), wide: true, value: (edge) => edge.protocol, cell: (edge) => edge.protocol || "tcp" },
    { id: "rate", head: text("rate"), numeric: true, value: (edge) => edge.rate, cell: (edge) => rate(edge.rate) },
    errorShare(text("errorShare"), (edge) => edge),
    ...quantiles<Edge>((edge, of) => edge.seconds[of], ["p50", "p90"]),
    {
      id: "connectsFailed",
      head: text("connectsFailed"),
      numeric: true,
      value: (edge) => edge.connections?.failed ?? null,
      cell: ({ connections }) => <Trouble of={connections?.failed ?? null} />,
    },
    {
      id: "connectsMade",
      head: text("connectsMade"),
      numeric: true,
      wide: true,
      value: (edge) => edge.connections?.made ?? null,
      cell: (edge) => count(edge.connections?.made ?? null),
    },
    {
      id: "connectTime",
      head: text("connectTime"),
      numeric: true,
      wide: true,
      value: (edge) => edge.connections?.seconds.p99 ?? null,
      cell: (edge) => seconds(edge.connections?.seconds.p99 ?? null),
    },
  ];
  return (
    <Table
      caption={text(caption)}
      columns={columns}
      rows={edges}
      id={(edge) => [edge.from, edge.to, edge.protocol, edge.counted_by].join("\u0000")}
      sort="-rate"
      addressed
    />
  );
}
