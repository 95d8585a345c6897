// Why something could not be loaded, and what to do.

import { Refused } from "./api";
import type { Key } from "./text";

const OF_SERVER: Partial<Record<number, readonly [Key, Key]>> = {
  502: ["serverFailed", "serverFailedHint"],
  504: ["serverSlow", "serverSlowHint"],
  507: ["serverLarge", "serverLargeHint"],
};

export interface Failure {
  what: Key;
  hint: Key;
  /** Whether it is a failure of the Prometheus server, without which the exporter's own last hour can be shown. */
  ofServer: boolean;
}

export function failureOf(error: Error): Failure {
  const reason = error instanceof Refused && error.ofServer ? OF_SERVER[error.status] : undefined;
  if (reason !== undefined) return { what: reason[0], hint: reason[1], ofServer: true };
  if (error instanceof Refused && error.status === 403) return { what: "forbidden", hint: "forbiddenHint", ofServer: false };
  return { what: "failedToLoad", hint: "failedToLoadHint", ofServer: false };
}
