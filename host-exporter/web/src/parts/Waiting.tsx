// While something loads, or why it cannot be.

import type { JSX } from "preact";
import { Refused } from "../api";
import { Empty } from "./Empty";
import { Loading, ServerFailed } from "./Past";

export function Waiting({ error }: { error: Error | null }): JSX.Element {
  if (error === null) return <Loading />;
  if (error instanceof Refused && [502, 504, 507].includes(error.status)) return <ServerFailed error={error} />;
  if (error instanceof Refused && error.status === 403) return <Empty what="forbidden" hint="forbiddenHint" />;
  return <Empty what="failedToLoad" hint="failedToLoadHint" />;
}
