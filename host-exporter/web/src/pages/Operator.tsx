// What runs, how it is monitored, what it takes of its budgets. A tenant sees its own part.

import type { JSX } from "preact";
import type { Budget, Resources, Sandbox, Starts, Tenants } from "../api";
import { useShared } from "../context";
import { useData } from "../data";
import { ABSENT, bytes, cores, count, ratio, seconds } from "../format";
import { amount, BudgetBar, budgetName } from "../parts/Budget";
import { rankOf, StateChip } from "../parts/Chip";
import { Trouble } from "../parts/columns";
import { Empty } from "../parts/Empty";
import { Figure } from "../parts/Figure";
import { ApplicationLink, TenantLink } from "../parts/ApplicationLink";
import { OtherTime } from "../parts/Past";
import { Completeness, States } from "../parts/States";
import { Table, type Column } from "../parts/Table";
import { Waiting } from "../parts/Waiting";
import { matches } from "../rows";
import { Taken } from "./Resources";
import { NodesOf } from "./Nodes";
import { SlowestStarts } from "./Starts";
import { Troubles } from "./Troubles";

type Tenant = Tenants["tenants"][number];

function fullest(budgets: readonly Budget[]): number | null {
  const shares = budgets.map((budget) => ratio(budget.taken, budget.limit) ?? 0);
  return shares.length > 0 ? Math.max(...shares) : null;
}

function sum(numbers: Record<string, number>): number {
  return Object.values(numbers).reduce((sum, number) => sum + number, 0);
}

export function Operator(): JSX.Element {
  const { view, text, viewer } = useShared();
  const tenants = useData<Tenants>("/api/v1/tenants");
  const sandboxes = useData<{ sandboxes: Sandbox[] }>("/api/v1/sandboxes");
  const resources = useData<Resources>("/api/v1/resources");
  const starts = useData<Starts>("/api/v1/starts");
  if (tenants.data === null || sandboxes.data === null) return <Waiting error={tenants.error ?? sandboxes.error} />;
  const listed = tenants.data.tenants.filter((row) => matches(view.filter, row.tenant));
  const rows = sandboxes.data.sandboxes.filter((row) =>
    matches(view.filter, row.tenant, row.service_name, row.k8s_pod_name, row.sandbox_id, row.state, row.agent?.capture_mode ?? "", row.agent?.kernel_release ?? ""),
  );
  const own = tenants.data.exporter;
  return (
    <>
      <h1>{text(viewer.operator ? "operator" : "sandboxes")}</h1>
      <OtherTime what="operatorNow" />
      {own !== null && (
        <section>
          <h2>{text("exporter")}</h2>
          <div class="figures">
            <Figure name={text("scrapes")} value={count(own.scrapes)} />
            <Figure name={text("failedScrapes")} value={count(own.scrapes_failed)} />
            <Figure name={text("denied")} value={count(own.requests_denied)} />
            {own.budgets.map((budget) => (
              <BudgetFigure key={budget.name} of={budget} />
            ))}
          </div>
        </section>
      )}
      <Troubles tenants={tenants.data} sandboxes={sandboxes.data.sandboxes} />
      {own !== null && <NodesOf tenants={tenants.data} />}
      <section>
        <h2>
          {text("tenants")} <span class="count">{listed.length}</span>
        </h2>
        <TenantTable rows={listed} />
      </section>
      <section>
        <h2>
          {text("sandboxes")} <span class="count">{rows.length}</span>
        </h2>
        {sandboxes.data.sandboxes.length === 0 ? <Empty what="noSandboxes" hint="noSandboxesHint" /> : <SandboxTable rows={rows} resources={resources.data} />}
      </section>
      <section>
        <h2>{text("slowestStarts")}</h2>
        {starts.data === null ? <Waiting error={starts.error} /> : <SlowestStarts starts={starts.data} />}
        <p class="note">{text("startsNote")}</p>
      </section>
    </>
  );
}

function BudgetFigure({ of }: { of: Budget }): JSX.Element {
  const { text } = useShared();
  return (
    <Figure name={budgetName(of, text)} value={amount(of, of.taken)}>
      <BudgetBar of={of} />
    </Figure>
  );
}

function TenantTable({ rows }: { rows: Tenant[] }): JSX.Element {
  const { text } = useShared();
  const columns: Column<Tenant>[] = [
    { id: "tenant", head: text("tenant"), value: (row) => row.tenant, cell: (row) => <TenantLink of={row.tenant} /> },
    { id: "applications", head: text("applications"), numeric: true, value: (row) => row.applications, cell: (row) => count(row.applications) },
    {
      id: "sandboxes",
      head: text("sandboxes"),
      value: (row) => sum(row.sandboxes),
      cell: (row) => <States of={row.sandboxes} />,
    },
    {
      id: "completeness",
      head: text("completeness"),
      numeric: true,
      value: (row) => row.capture_completeness_ratio,
      cell: (row) => <Completeness of={row.capture_completeness_ratio} />,
    },
    {
      id: "budgets",
      head: text("budgets"),
      value: (row) => fullest(row.budgets),
      cell: (row) => (
        <span class="bars">
          {row.budgets.map((budget) => (
            <BudgetBar key={budget.name} of={budget} />
          ))}
        </span>
      ),
    },
    { id: "rejected", head: text("rejected"), numeric: true, wide: true, value: (row) => sum(row.rejected), cell: (row) => count(sum(row.rejected)) },
    {
      id: "throttled",
      head: text("throttled"),
      numeric: true,
      wide: true,
      value: (row) => row.throttled_seconds,
      cell: (row) => (row.throttled_seconds > 0 ? seconds(row.throttled_seconds) : ABSENT),
    },
  ];
  return <Table caption={text("tenants")} columns={columns} rows={rows} id={(row) => row.tenant} sort="-budgets" />;
}

function SandboxTable({ rows, resources }: { rows: Sandbox[]; resources: Resources | null }): JSX.Element {
  const { text } = useShared();
  const taken = new Map((resources?.sandboxes ?? []).map((row) => [row.sandbox_id, row]));
  const guest = (row: Sandbox): Resources["sandboxes"][number]["guest"] => taken.get(row.sandbox_id)?.guest ?? null;
  const killed = (row: Sandbox): number | null => {
    const kills = (taken.get(row.sandbox_id)?.containers ?? []).flatMap(({ memory_oom_kills }) => memory_oom_kills ?? []);
    return kills.length > 0 ? kills.reduce((sum, kills) => sum + kills, 0) : null;
  };
  const columns: Column<Sandbox>[] = [
    {
      id: "sandbox",
      head: text("sandbox"),
      value: (row) => row.k8s_pod_name || row.sandbox_id,
      cell: (row) => (
        <>
          <span class="name">{row.k8s_pod_name || row.sandbox_id}</span>
          <span class="under">
            <ApplicationLink of={row} />
          </span>
        </>
      ),
    },
    { id: "state", head: text("state"), value: (row) => rankOf(row.state), cell: (row) => <StateChip of={row.state} /> },
    {
      id: "reason",
      head: text("reason"),
      value: (row) => row.reason?.code ?? row.connection.last_error,
      cell: (row) => (
        <>
          {row.reason?.code ?? ""}
          <span class="under">{row.reason?.message ?? row.connection.last_error ?? ""}</span>
        </>
      ),
    },
    { id: "connection", head: text("connection"), wide: true, value: (row) => row.connection.state, cell: (row) => row.connection.state },
    {
      id: "mode",
      head: text("captureMode"),
      value: (row) => row.agent?.capture_mode ?? null,
      cell: (row) => (
        <>
          {row.agent?.capture_mode ?? ABSENT}
          {row.agent !== null && (
            <span class="under">
              {text("kernel")} {row.agent.kernel_release}
            </span>
          )}
        </>
      ),
    },
    {
      id: "completeness",
      head: text("completeness"),
      numeric: true,
      value: (row) => row.capture_completeness_ratio,
      cell: (row) => <Completeness of={row.capture_completeness_ratio} />,
    },
    { id: "cpu", head: text("cpuCores"), numeric: true, wide: true, value: (row) => guest(row)?.cpu_cores ?? null, cell: (row) => cores(guest(row)?.cpu_cores ?? null) },
    {
      id: "memory",
      head: text("memory"),
      numeric: true,
      wide: true,
      value: (row) => guest(row)?.memory_used_bytes ?? null,
      cell: (row) => <Taken taken={guest(row)?.memory_used_bytes ?? null} limit={guest(row)?.memory_bytes ?? null} format={bytes} />,
    },
    { id: "oom", head: text("oomKills"), numeric: true, wide: true, value: killed, cell: (row) => <Trouble of={killed(row)} /> },
    { id: "series", head: text("series"), numeric: true, wide: true, value: (row) => row.series, cell: (row) => count(row.series) },
    {
      id: "batch",
      head: text("lastBatch"),
      numeric: true,
      wide: true,
      value: (row) => row.connection.last_batch_age_seconds,
      cell: (row) => seconds(row.connection.last_batch_age_seconds),
    },
  ];
  return <Table caption={text("sandboxes")} columns={columns} rows={rows} id={(row) => row.sandbox_id} sort="state" addressed />;
}
