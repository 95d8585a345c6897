// One application: how it does against its objectives, over time, and by interface, dependency and instance.

import type { JSX } from "preact";
import { useMemo } from "preact/hooks";
import { path, type Applications, type Burn, type Connections, type Hour, type Interface, type Interfaces, type Line, type Resources } from "../api";
import { useShared } from "../context";
import { useData } from "../data";
import { rate, ratio, seconds, share } from "../format";
import { VerdictChip } from "../parts/Chip";
import { Chart, type Drawn } from "../parts/Chart";
import { Empty } from "../parts/Empty";
import { Figure } from "../parts/Figure";
import { Heat } from "../parts/Heat";
import { Link } from "../parts/Link";
import { TimeNote } from "../parts/Past";
import { Waiting } from "../parts/Waiting";
import { aligned, covered, ends, verdict } from "../rows";
import { ask, hasServer } from "../past";
import { to } from "../view";
import { ConnectionTable, serversOf } from "./Connections";
import { InstanceTable, InterfaceTable } from "./Interfaces";
import { CallersOf } from "./Map";
import { ResourceTables } from "./Resources";
import { StartsOf } from "./Starts";

const PARTS = ["served", "called", "callers", "instances", "resources", "starts"] as const;
type Part = (typeof PARTS)[number];

export function ApplicationPage(): JSX.Element {
  const { view, text, viewer } = useShared();
  const of = { tenant: view.tenant, service_name: view.service };
  const { query, ticks } = ask(view, viewer);
  const hour = useData<Hour>(path("/api/v1/history", { ...of, ...query, merged: true, buckets: true }), ticks);
  const listing = useData<Applications>(path("/api/v1/applications", { ...of, instances: false }));
  const interfaces = useData<Interfaces>(path("/api/v1/interfaces", of));
  const part = PARTS.find((part) => part === view.part) ?? "served";
  const title = (
    <h1>
      {view.service} {viewer.operator && <span class="count">{view.tenant}</span>}
    </h1>
  );
  if (hour.data === null || listing.data === null || interfaces.data === null) {
    return (
      <>
        {title}
        <Waiting error={hour.error ?? listing.error ?? interfaces.error} />
      </>
    );
  }
  const objectives = listing.data.applications[0]?.objectives ?? [];
  const line = (side: string): Line | undefined => hour.data?.lines.find((line) => line.side === side);
  const shown = line("server") ?? line("client");
  return (
    <>
      {title}
      <TimeNote except="partsNow" />
      <Objectives of={objectives} />
      {shown === undefined ? <Empty what="noRequests" hint="noRequestsHint" /> : <Charts hour={hour.data} line={shown} />}
      <nav class="parts" aria-label={text("application")}>
        {PARTS.map((name) => (
          <Link key={name} to={{ ...view, part: name, sort: null }} current={name === part}>
            {text(name === "callers" ? "callersTab" : name)}
          </Link>
        ))}
        <Link to={to(view, "calls", { tenant: view.tenant, service: view.service })}>{text("sampledCalls")}</Link>
        <Link to={to(view, "traces", { tenant: view.tenant, service: view.service })}>{text("traces")}</Link>
      </nav>
      <Detail part={part} of={of} interfaces={interfaces.data} />
    </>
  );
}

interface Names {
  tenant: string | null;
  service_name: string | null;
}

function Detail({ part, of, interfaces }: { part: Part; of: Names; interfaces: Interfaces }): JSX.Element {
  const { text, viewer } = useShared();
  const detail = interfaces.applications[0];
  // The numbers above can be of other nodes.
  if (detail === undefined && hasServer(viewer)) return <Empty what="notHere" hint="notHereHint" />;
  if (part === "resources") return <ResourcesOf of={of} />;
  if (part === "starts") return <StartsOf of={of} />;
  if (part === "callers") return <CallersOf tenant={of.tenant} service={of.service_name} />;
  return (
    <>
      {part === "called" ? (
        <CalledOf of={of} interfaces={detail?.interfaces ?? []} />
      ) : part === "instances" ? (
        <InstanceTable instances={detail?.instances ?? []} />
      ) : (
        <InterfaceTable
          id={idOf(of)}
          side="server"
          interfaces={detail?.interfaces ?? []}
        />
      )}
      {interfaces.requests_left_out > 0 && (
        <p class="note">
          {interfaces.requests_left_out} {text("leftOut")}
        </p>
      )}
      <p class="note">{text("allInterfaces")}</p>
    </>
  );
}

function idOf(of: Names): string {
  return `${of.tenant ?? ""}/${of.service_name ?? ""}`;
}

/** What the application calls: connections, and the requests on them, which have the same names for the servers. */
function CalledOf({ of, interfaces }: { of: Names; interfaces: Interface[] }): JSX.Element {
  const { data } = useData<Connections>(path("/api/v1/connections", { ...of }));
  const connections = data?.applications[0]?.connections ?? [];
  return (
    <>
      {data !== null && <ConnectionTable tenant={of.tenant} connections={connections} leftOut={data.addresses_left_out} />}
      <InterfaceTable id={idOf(of)} side="client" interfaces={interfaces} servers={serversOf(connections)} />
    </>
  );
}

function ResourcesOf({ of }: { of: Names }): JSX.Element {
  const { data, error } = useData<Resources>(path("/api/v1/resources", { ...of }));
  return data === null ? <Waiting error={error} /> : <ResourceTables sandboxes={data.sandboxes} />;
}

function Objectives({ of }: { of: Burn[] }): JSX.Element {
  const { text } = useShared();
  return (
    <div class="cards">
      {of.map((burn) => (
        <section key={burn.objective} class="card">
          <h2>{burn.objective === "availability" ? text("availability") : text("latency")}</h2>
          <VerdictChip of={verdict([burn])} />
          <dl>
            <dt>{text("ofGoal")}</dt>
            <dd>{share(burn.share)}</dd>
            <dt>{text("missed5m")}</dt>
            <dd>{share(burn.missed_5m)}</dd>
            <dt>{text("missed1h")}</dt>
            <dd>{share(burn.missed_1h)}</dd>
          </dl>
        </section>
      ))}
    </div>
  );
}

function Charts({ hour, line }: { hour: Hour; line: Line }): JSX.Element {
  const { text } = useShared();
  const drawn = useMemo(() => {
    const perSecond = (value: number): number => value / hour.step_seconds;
    const of = (label: string, colour: string, values: (number | null)[]): Drawn => ({ label, colour, values });
    const counted = (value: (point: Line["points"][number]) => number): (number | null)[] =>
      aligned(hour, line.points, (point) => perSecond(value(point))).map((value) => value ?? 0);
    return {
      times: ends(hour),
      rate: [of(text("rate"), "c1", counted((point) => point.requests))],
      outcomes: [
        of(text("ok"), "c2", counted((point) => point.requests - point.errors)),
        of(text("clientErrors"), "c4", counted((point) => point.errors_by_class.client)),
        of(text("serverErrors"), "c5", counted((point) => point.errors_by_class.server)),
        of(text("noResponse"), "c6", counted((point) => point.errors_by_class.no_response)),
      ],
      durations: [
        of("p50", "c1", aligned(hour, line.points, (point) => point.p50_seconds)),
        of("p90", "c3", aligned(hour, line.points, (point) => point.p90_seconds)),
        of("p99", "c5", aligned(hour, line.points, (point) => point.p99_seconds)),
      ],
    };
  }, [hour, line, text]);
  const total = line.total;
  return (
    <>
      <div class="figures">
        <Figure name={text("rate")} value={rate(total.requests / covered(hour))} />
        <Figure name={text("errorShare")} value={share(ratio(total.errors, total.requests))} />
        <Figure name="p50" value={seconds(total.p50_seconds)} />
        <Figure name="p90" value={seconds(total.p90_seconds)} />
        <Figure name="p99" value={seconds(total.p99_seconds)} />
      </div>
      <div class="charts">
        <Chart title={text("requestRate")} times={drawn.times} range={hour.range_seconds} lines={drawn.rate} format={rate} />
        <Chart title={text("outcomes")} times={drawn.times} range={hour.range_seconds} lines={drawn.outcomes} format={rate} />
        <Chart title={text("durations")} times={drawn.times} range={hour.range_seconds} lines={drawn.durations} format={seconds} />
        <Heat hour={hour} line={line} />
      </div>
    </>
  );
}
