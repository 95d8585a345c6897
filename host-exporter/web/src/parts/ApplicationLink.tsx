// Links to an application or a tenant that something belongs to.

import type { JSX } from "preact";
import type { Application } from "../api";
import { useShared } from "../context";
import { to } from "../view";
import { Link } from "./Link";

/** An application, for operators with its tenant. */
export function ApplicationLink({ of: { tenant, service_name } }: { of: Application }): JSX.Element {
  const { view, viewer } = useShared();
  return (
    <>
      {viewer.operator && `${tenant} / `}
      <Link to={to(view, "application", { tenant, service: service_name })}>{service_name}</Link>
    </>
  );
}

/** In the title of a list of one application's calls or traces. */
export function OnlyOf(): JSX.Element | null {
  const { view, text } = useShared();
  if (view.service === null || view.tenant === null) return null;
  return (
    <span class="count">
      <Link to={to(view, "application", { tenant: view.tenant, service: view.service })}>{view.service}</Link>
      {" · "}
      <Link to={{ ...view, tenant: null, service: null, cell: null }}>{text("ofAll")}</Link>
    </span>
  );
}

/** A tenant, which leads to its applications. */
export function TenantLink({ of }: { of: string }): JSX.Element {
  const { view } = useShared();
  return (
    <Link to={to(view, "applications", { filter: of })} class="name">
      {of}
    </Link>
  );
}
