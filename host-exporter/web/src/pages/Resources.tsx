// What the containers of an application and their guests take.

import type { JSX } from "preact";
import type { ContainerResources, GuestResources, Resources } from "../api";
import { useShared } from "../context";
import { ABSENT, bytes, cores, count, share } from "../format";
import { Bar } from "../parts/Bar";
import { instance, Trouble } from "../parts/columns";
import { Empty } from "../parts/Empty";
import { Table, type Column } from "../parts/Table";
import { matches } from "../rows";
import type { Key } from "../text";

type Sandbox = Resources["sandboxes"][number];
type ContainerRow = Sandbox & { container: ContainerResources };
type GuestRow = Sandbox & { guest: GuestResources };

/** What is taken, and of what where there is a limit. */
export function Taken({ taken, limit, format }: { taken: number | null; limit: number | null; format: (value: number | null) => string }): JSX.Element {
  const { text } = useShared();
  if (taken === null || limit === null) return <>{format(taken)}</>;
  const label = `${format(taken)} ${text("of")} ${format(limit)}`;
  return (
    <>
      {label}
      <Bar taken={taken} limit={limit} label={label} />
    </>
  );
}

function perSecond(value: number | null): string {
  return value === null ? ABSENT : `${bytes(Math.round(value))}/s`;
}

export function ResourceTables({ sandboxes }: { sandboxes: readonly Sandbox[] }): JSX.Element {
  const { view, text } = useShared();
  if (sandboxes.length === 0) return <Empty what="noResources" hint="noResourcesHint" />;
  const containers = sandboxes
    .flatMap((row) => row.containers.map((container): ContainerRow => ({ ...row, container })))
    .filter((row) => matches(view.filter, row.k8s_pod_name, row.sandbox_id, row.container.name));
  const guests = sandboxes
    .flatMap((row): GuestRow[] => (row.guest === null ? [] : [{ ...row, guest: row.guest }]))
    .filter((row) => matches(view.filter, row.k8s_pod_name, row.sandbox_id));
  return (
    <>
      <h2>{text("containers")}</h2>
      <ContainerTable rows={containers} />
      <h2>{text("guests")}</h2>
      <GuestTable rows={guests} />
      <p class="note">{text("resourcesNote")}</p>
    </>
  );
}

function ContainerTable({ rows }: { rows: ContainerRow[] }): JSX.Element {
  const { text } = useShared();
  const waiting = (row: ContainerRow): (readonly [Key, number | null])[] => [
    ["cpu", row.container.waiting_cpu_ratio],
    ["memory", row.container.waiting_memory_ratio],
    ["disk", row.container.waiting_io_ratio],
  ];
  const most = (row: ContainerRow): number | null => {
    const known = waiting(row).flatMap(([, ratio]) => (ratio === null ? [] : [ratio]));
    return known.length > 0 ? Math.max(...known) : null;
  };
  const columns: Column<ContainerRow>[] = [
    {
      id: "container",
      head: text("container"),
      value: (row) => row.container.name,
      cell: (row) => (
        <>
          <span class="name">{row.container.name}</span>
          <span class="under">{row.k8s_pod_name || row.sandbox_id}</span>
        </>
      ),
    },
    {
      id: "cpu",
      head: text("cpuCores"),
      numeric: true,
      value: (row) => row.container.cpu_cores,
      cell: ({ container }) => <Taken taken={container.cpu_cores} limit={container.cpu_limit_cores} format={cores} />,
    },
    {
      id: "throttled",
      head: text("cpuThrottled"),
      numeric: true,
      value: (row) => row.container.cpu_throttled_ratio,
      cell: ({ container }) => (
        <span class={(container.cpu_throttled_ratio ?? 0) > 0 ? "bad" : ""}>{share(container.cpu_throttled_ratio)}</span>
      ),
    },
    {
      id: "memory",
      head: text("memory"),
      numeric: true,
      value: (row) => row.container.memory_bytes,
      cell: ({ container }) => <Taken taken={container.memory_bytes} limit={container.memory_limit_bytes} format={bytes} />,
    },
    {
      id: "oom",
      head: text("oomKills"),
      numeric: true,
      value: (row) => row.container.memory_oom_kills,
      cell: ({ container }) => <Trouble of={container.memory_oom_kills} />,
    },
    {
      id: "disk",
      head: text("diskReadWrite"),
      numeric: true,
      wide: true,
      value: ({ container }) => {
        const { disk_read_bytes_per_second: read, disk_write_bytes_per_second: written } = container;
        return read === null && written === null ? null : (read ?? 0) + (written ?? 0);
      },
      cell: ({ container: { disk_read_bytes_per_second: read, disk_write_bytes_per_second: written } }) =>
        read === null && written === null ? ABSENT : `${perSecond(read)} ${perSecond(written)}`,
    },
    {
      id: "waiting",
      head: text("waiting"),
      wide: true,
      numeric: true,
      value: most,
      cell: (row) =>
        most(row) === null
          ? ABSENT
          : waiting(row).map(([what, ratio]) => (
              <span key={what} class="status">
                {text(what)} <b>{share(ratio)}</b>
              </span>
            )),
    },
    {
      id: "threads",
      head: text("threads"),
      numeric: true,
      wide: true,
      value: (row) => row.container.threads,
      cell: ({ container }) => <Taken taken={container.threads} limit={container.threads_limit} format={count} />,
    },
    {
      id: "descriptors",
      head: text("descriptors"),
      numeric: true,
      wide: true,
      value: (row) => row.container.open_file_descriptors,
      cell: ({ container }) => count(container.open_file_descriptors),
    },
  ];
  const id = (row: ContainerRow): string => `${row.sandbox_id}\u0000${row.container.name}`;
  return <Table caption={text("containers")} columns={columns} rows={rows} id={id} sort="-cpu" addressed />;
}

function GuestTable({ rows }: { rows: GuestRow[] }): JSX.Element {
  const { text } = useShared();
  const columns: Column<GuestRow>[] = [
    instance(text("instance")),
    { id: "cpu", head: text("cpuCores"), numeric: true, value: ({ guest }) => guest.cpu_cores, cell: ({ guest }) => cores(guest.cpu_cores) },
    { id: "steal", head: text("steal"), numeric: true, value: ({ guest }) => guest.cpu_steal_cores, cell: ({ guest }) => cores(guest.cpu_steal_cores) },
    {
      id: "memory",
      head: text("memory"),
      numeric: true,
      value: ({ guest }) => guest.memory_used_bytes,
      cell: ({ guest }) => <Taken taken={guest.memory_used_bytes} limit={guest.memory_bytes} format={bytes} />,
    },
    {
      id: "received",
      head: text("received"),
      numeric: true,
      value: ({ guest }) => guest.network_received_bytes_per_second,
      cell: ({ guest }) => perSecond(guest.network_received_bytes_per_second),
    },
    {
      id: "sent",
      head: text("sent"),
      numeric: true,
      value: ({ guest }) => guest.network_sent_bytes_per_second,
      cell: ({ guest }) => perSecond(guest.network_sent_bytes_per_second),
    },
    {
      id: "dropped",
      head: text("dropped"),
      numeric: true,
      wide: true,
      value: ({ guest }) => guest.network_dropped,
      cell: ({ guest }) => <Trouble of={guest.network_dropped} />,
    },
    {
      id: "retransmitted",
      head: text("retransmitted"),
      numeric: true,
      wide: true,
      value: ({ guest }) => guest.tcp_retransmitted_segments,
      cell: ({ guest }) => <Trouble of={guest.tcp_retransmitted_segments} />,
    },
    {
      id: "overflows",
      head: text("overflows"),
      numeric: true,
      wide: true,
      value: ({ guest }) => guest.tcp_accept_queue_overflows,
      cell: ({ guest }) => <Trouble of={guest.tcp_accept_queue_overflows} />,
    },
  ];
  return <Table caption={text("guests")} columns={columns} rows={rows} id={(row) => row.sandbox_id} sort="-cpu" />;
}
