// Answers of the exporter's routes that are larger than those of the tests' exporters.

/** Has a route answer with this instead. */
export async function answers(context, route, body) {
  await context.route((url) => url.pathname === `/api/v1/${route}`, (intercepted) => intercepted.fulfill({ json: body }));
}

/** A topology of three tiers in which most call most of the next one, over several protocols, and some fail. */
export function dense() {
  const tiers = [6, 9, 7].map((size, tier) => Array.from({ length: size }, (_, at) => ({ id: `${tier}-${at}`, tier, at })));
  const nodes = tiers.flat().map(({ id, tier, at }) => ({
    id,
    kind: tier === 2 ? "database" : "application",
    tenant: "acme",
    name: tier === 2 ? `10.0.0.${at}:5432` : `${tier === 0 ? "storefront" : "service"}-${at}`,
    monitored: tier < 2,
    protocol: tier === 2 ? "postgresql" : null,
  }));
  const edges = [];
  const connections = [];
  for (const tier of [0, 1]) {
    for (const from of tiers[tier]) {
      for (const to of tiers[tier + 1]) {
        const number = from.at * 13 + to.at * 7 + tier;
        if (number % 4 === 0) continue;
        const protocols = tier === 1 ? ["postgresql"] : number % 5 === 0 ? ["http1", "http2"] : ["http1"];
        for (const protocol of protocols) {
          const requests = 1 + ((number * 997) % 90_000);
          const errors = number % 6 === 0 ? Math.floor(requests / 9) : 0;
          const seconds = { p50: 0.004, p90: 0.0213, p99: number / 300 };
          edges.push({ from: from.id, to: to.id, protocol, counted_by: "server", requests, errors, rate: requests / 300, seconds });
        }
        if (number % 9 === 0) connections.push({ from: from.id, to: to.id, made: 2, failed: number, broken: 0, seconds: { p50: null, p90: null, p99: null } });
      }
    }
  }
  return { nodes, edges, connections, window_seconds: 300 };
}

/** Starts of so many applications, each slower than the one before it. */
export function manyStarts(applications) {
  const phases = ["machine", "agent", "first_process", "first_listen", "first_request"];
  return {
    applications: Array.from({ length: applications }, (_, number) => ({
      tenant: "acme",
      service_name: `started-${number}`,
      phases: phases.map((phase, at) => {
        const seconds = (at + 1) * (0.2 + number / 100);
        return { phase, sandboxes: 3, p50_seconds: seconds, p90_seconds: 2 * seconds, p99_seconds: 3 * seconds };
      }),
    })),
  };
}

/** So many nodes, of which one in ten cannot be scraped. */
export function manyNodes(nodes) {
  const one = (number) => {
    const up = number % 10 !== 7;
    const known = (value) => (up ? value : null);
    return {
      instance: `node-${number}:9464`,
      job: "porthole",
      up,
      version: known("0.1.0"),
      sandboxes: up ? { watching: 12, unmonitored: number % 3 } : {},
      completeness_ratio_min: known(number % 4 === 0 ? 0.97 : 1),
      resident_bytes: known(61_000_000),
      memory_limit_bytes: known(268_435_456),
      accounted_bytes: known(9_000_000),
      accounted_bytes_limit: known(134_217_728),
      ingest_cpu_cores: known(0.02),
      last_scrape_duration_seconds: known(0.05),
    };
  };
  return { configured: true, nodes: Array.from({ length: nodes }, (_, number) => one(number)), nodes_left_out: 0 };
}

/** The past of two applications, as a request for it has range and steps: one has served in all of it, the other one in its second half. */
export function history(url) {
  const asked = (name) => Number(new URL(url).searchParams.get(name));
  const [range, step] = [asked("range_seconds"), asked("step_seconds")];
  const end = Math.ceil((asked("until_unix_ms") || Date.now()) / 15_000) * 15_000;
  const point = (end_unix_ms, requests, errors) => ({
    end_unix_ms,
    requests,
    errors,
    errors_by_class: { client: 0, server: errors, no_response: 0 },
    unknown: 0,
    duration_sum_seconds: requests / 100,
    p50_seconds: 0.004,
    p90_seconds: 0.008 + requests / 1e6,
    p99_seconds: 0.03 + requests / 1e5,
    duration_buckets: [
      [0.004, requests - errors],
      [0.064, errors],
    ],
  });
  const line = (service_name, from) => {
    const count = Math.floor(range / step);
    const points = Array.from({ length: count }, (_, at) => at)
      .filter((at) => at >= from * count)
      .map((at) => point(end - (count - 1 - at) * step * 1000, 400 + Math.round(300 * Math.sin(at / 5)), at % 17 === 3 ? 40 : 0));
    const all = points.reduce((sum, { requests, errors }) => [sum[0] + requests, sum[1] + errors], [0, 0]);
    return { tenant: "acme", service_name, side: "server", protocol: "http1", protocols: ["http1"], total: point(end, ...all), points };
  };
  return { end_unix_ms: end, recorded_unix_ms: end, range_seconds: range, step_seconds: step, lines: [line("shop", 0), line("cart", 0.5)] };
}
