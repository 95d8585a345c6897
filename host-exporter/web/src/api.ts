// The exporter's JSON routes: their shapes, and how they are requested.

export interface Viewer {
  operator: boolean;
  tenant: string | null;
  session: boolean;
  version: string;
  step_seconds: number;
  range_seconds_max: number;
}

export interface Application {
  tenant: string;
  service_name: string;
}

export interface ErrorsByClass {
  client: number;
  server: number;
  no_response: number;
}

export interface Point {
  end_unix_ms: number;
  requests: number;
  errors: number;
  errors_by_class: ErrorsByClass;
  duration_sum_seconds: number;
  p50_seconds: number | null;
  p90_seconds: number | null;
  p99_seconds: number | null;
  duration_buckets?: [number, number][];
}

export type Side = "server" | "client";

export interface Line extends Application {
  side: Side;
  protocol: string | null;
  protocols: string[];
  total: Point;
  points: Point[];
}

export interface Hour {
  end_unix_ms: number;
  recorded_unix_ms: number;
  range_seconds: number;
  step_seconds: number;
  lines: Line[];
}

export interface Burn {
  objective: string;
  share: number;
  missed_5m: number | null;
  missed_1h: number | null;
  burns_fast: boolean;
}

export interface Applications {
  applications: (Application & { objectives: Burn[] })[];
}

export interface Summary {
  requests: number;
  errors: number;
  duration_sum_seconds: number;
  p50_seconds: number | null;
  p90_seconds: number | null;
  p99_seconds: number | null;
}

export interface Interface extends Summary {
  side: Side;
  protocol: string;
  operation: string;
  resource: string;
  peer: string;
  request_bytes: number;
  response_bytes: number;
  statuses: [string, number][];
}

export interface Instance {
  sandbox_id: string;
  k8s_namespace_name: string;
  k8s_pod_name: string;
  state: string;
  served: Summary;
  called: Summary;
}

export interface Interfaces {
  applications: (Application & { instances: Instance[]; interfaces: Interface[] })[];
  requests_left_out: number;
}

export interface Budget {
  name: string;
  taken: number;
  limit: number;
}

export interface Tenants {
  tenants: {
    tenant: string;
    applications: number;
    sandboxes: Record<string, number>;
    budgets: Budget[];
    ingest_bytes: number;
    throttled_seconds: number;
    rejected: Record<string, number>;
    capture_completeness_ratio: number | null;
  }[];
  exporter: {
    resident_bytes: number | null;
    scrapes: number;
    scrapes_failed: number;
    requests_denied: number;
    reloads_failed: number;
    budgets: Budget[];
  } | null;
}

/** What is not known of a node is null. */
export interface Node {
  instance: string;
  job: string;
  up: boolean;
  version: string | null;
  /** Sandboxes by state. */
  sandboxes: Record<string, number>;
  completeness_ratio_min: number | null;
  resident_bytes: number | null;
  memory_limit_bytes: number | null;
  accounted_bytes: number | null;
  accounted_bytes_limit: number | null;
  ingest_cpu_cores: number | null;
  last_scrape_duration_seconds: number | null;
}

export interface Nodes {
  /** Whether there is a server that knows of the nodes. */
  configured: boolean;
  nodes: Node[];
  nodes_left_out: number;
}

/** From a sandbox's creation on. */
export interface StartTimes {
  machine_seconds: number | null;
  agent_seconds: number | null;
  first_process_seconds: number | null;
  first_listen_seconds: number | null;
  first_request_seconds: number | null;
}

export interface Starts {
  applications: (Application & {
    phases: {
      phase: string;
      sandboxes: number;
      p50_seconds: number | null;
      p90_seconds: number | null;
      p99_seconds: number | null;
    }[];
  })[];
}

export interface Sandbox extends Application {
  sandbox_id: string;
  k8s_namespace_name: string;
  k8s_pod_name: string;
  runtime: string | null;
  state: string;
  reason: { code: string; message: string } | null;
  connection: { state: string; last_error: string | null; last_batch_age_seconds: number | null };
  created_unix_ms: number;
  start: StartTimes;
  agent: { version: string; kernel_release: string; capture_mode: string | null; placement: string | null } | null;
  series: number;
  capture_completeness_ratio: number | null;
}

export interface Connections {
  applications: (Application & {
    connections: {
      peer: string;
      application: string | null;
      name: string | null;
      /** The name for which the client's guest looked the address up. */
      looked_up: string | null;
      made: number;
      p50_seconds: number | null;
      p90_seconds: number | null;
      p99_seconds: number | null;
      failed: Record<string, number>;
      broken: Record<string, number>;
      retransmitted_segments: number;
      round_trip_seconds: number | null;
    }[];
  })[];
  addresses_left_out: number;
}

export interface GuestResources {
  cpu_cores: number | null;
  cpu_steal_cores: number | null;
  memory_bytes: number | null;
  memory_used_bytes: number | null;
  network_received_bytes_per_second: number | null;
  network_sent_bytes_per_second: number | null;
  network_dropped: number | null;
  tcp_retransmitted_segments: number | null;
  tcp_accept_queue_overflows: number | null;
}

export interface ContainerResources {
  name: string;
  cpu_cores: number | null;
  cpu_limit_cores: number | null;
  cpu_throttled_ratio: number | null;
  memory_bytes: number | null;
  memory_limit_bytes: number | null;
  memory_oom_kills: number | null;
  disk_read_bytes_per_second: number | null;
  disk_write_bytes_per_second: number | null;
  waiting_cpu_ratio: number | null;
  waiting_memory_ratio: number | null;
  waiting_io_ratio: number | null;
  threads: number | null;
  threads_limit: number | null;
  open_file_descriptors: number | null;
}

export interface Resources {
  sandboxes: (Application & {
    sandbox_id: string;
    k8s_pod_name: string;
    guest: GuestResources | null;
    containers: ContainerResources[];
  })[];
}

interface NamesOfCall extends Application {
  k8s_pod_name: string;
  sandbox_id: string;
  protocol: string;
  side: Side;
  operation: string;
  resource: string;
  status: string;
  error: string;
  start_unix_ns: number;
  duration_ns: number;
}

export interface Span extends NamesOfCall {
  trace_id: string;
  reason: string;
  local: string;
  remote: string;
}

/** A call in its trace. */
export interface Call extends NamesOfCall {
  span_id: string;
  parent_span_id: string | null;
  certainty: string | null;
  depth: number;
  clock_error_ns: number;
  remote: string;
}

interface TraceSummary extends NamesOfCall {
  trace_id: string;
  spans: number;
  errors: number;
  services: string[];
}

export interface Traces {
  traces: TraceSummary[];
  left_out: number;
}

export interface Trace extends TraceSummary {
  /** Depth first. */
  tree: Call[];
}

export interface Spans {
  spans: Span[];
  left_out: number;
}

interface Seconds {
  p50: number | null;
  p90: number | null;
  p99: number | null;
}

export interface Topology {
  nodes: { id: string; kind: string; tenant: string | null; name: string; looked_up?: boolean; monitored?: boolean; protocol?: string | null }[];
  edges: {
    from: string;
    to: string;
    protocol: string;
    counted_by?: Side;
    requests: number;
    errors: number;
    rate: number;
    seconds: Seconds;
  }[];
  connections: { from: string; to: string; made: number; failed: number; broken: number; seconds: Seconds }[];
  window_seconds: number;
}

/** An answer other than 200. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    text: string,
    /** Whether the exporter has no answer because its Prometheus server has none; a proxy before it can have the same status. */
    readonly ofServer = false,
  ) {
    super(text);
  }
}

/** The header by which the exporter marks such answers. */
const OF_SERVER = "porthole-failed-source";

export type Query = Record<string, string | number | boolean | null | undefined>;

/** A path of the exporter with a query; what is null or absent is left out. */
export function path(route: string, query: Query = {}): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined) parameters.set(name, String(value));
  }
  const text = parameters.toString();
  return text === "" ? route : `${route}?${text}`;
}

/** Requests one of the JSON routes. */
export async function get<T>(url: string, signal: AbortSignal): Promise<T> {
  const response = await fetch(url, { signal, headers: { accept: "application/json" } });
  if (!response.ok) throw new Refused(response.status, (await response.text()).slice(0, 500), response.headers.get(OF_SERVER) === "prometheus");
  return (await response.json()) as T;
}

/** Begins a session with a token; whether the token is valid. */
export async function signIn(token: string): Promise<boolean> {
  // A header has only some characters; a token has none of the others.
  if (!/^[\x21-\x7e]+$/.test(token)) return false;
  const response = await fetch("/api/v1/session", { method: "POST", headers: { authorization: `Bearer ${token}` } });
  if (!response.ok && response.status !== 401) throw new Refused(response.status, response.statusText);
  return response.ok;
}

/** Ends the session. */
export async function signOut(): Promise<void> {
  await fetch("/api/v1/session", { method: "DELETE" });
}
