//! Is a request that goes through several sandboxes one trace?

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use porthole_testbed::{
    environment::Environment,
    scenario::{
        Running,
        chain::{ALONE, Offer, TOGETHER},
    },
    wait,
};
use serde_json::Value;

/// What the list of traces may take to show what was sent. Then it is sent again: agents sample.
const SHOWN: Duration = Duration::from_millis(500);

/// How many times that requests were sent are looked for, the newest ones.
const ROUNDS: usize = 20;

/// The spans of a request for an offer, from the first one: application and side.
const CHAIN: [(&str, &str); 5] = [
    ("shop", "server"),
    ("shop", "client"),
    ("catalog", "server"),
    ("catalog", "client"),
    ("stock", "server"),
];

/// Demands that requests through two and three sandboxes are a trace each, and that none of the traces has another's call.
pub fn assert_joined(environment: &Environment, running: &mut Running) -> Result<()> {
    through_two(environment, running)?;
    running.need_stock(&|line| eprintln!("{line}"))?;
    through_three(environment, running)?;
    together(environment, running)?;
    propagated(environment, running)?;
    running.stop_stock()?;
    let others = environment.exporter()?.traces("tenant=globex")?;
    ensure!(others.iter().all(|trace| trace["tenant"] == "globex"), "traces of another tenant: {others:#?}");
    Ok(())
}

/// Sends failing requests through `shop` to `catalog` until one of them is a trace of three spans: only what failed is sampled for sure,
/// which is the middle one. No program propagates anything: `shop` is an nginx that adds no headers.
fn through_two(environment: &Environment, running: &mut Running) -> Result<()> {
    let query = "tenant=acme&service_name=catalog&route=/items/{}&errors=true&spans_min=3";
    let listed = wait::until("a trace through two sandboxes", wait::SOON, || {
        running.send_for_missing()?;
        wait::hold(SHOWN)?;
        let traces = environment.exporter()?.traces(query)?;
        Ok((!traces.is_empty()).then_some(traces))
    })?;
    for tree in trees(environment, &listed)? {
        let found: Vec<_> = tree.iter().map(place).collect();
        let [served, called, answered] = &found[..] else { bail!("{} spans: {tree:#?}", tree.len()) };
        ensure!(*served == ("shop", "server", "404", None), "{tree:#?}");
        ensure!(matches!(called, ("shop", "client", "404", Some("thread" | "task"))), "{tree:#?}");
        ensure!(*answered == ("catalog", "server", "404", Some("connection")), "{tree:#?}");
        ensure!(tree.iter().all(|span| span["resource"] == "/items/{}"), "{tree:#?}");
        assert_one_below_another(&tree)?;
    }
    Ok(())
}

/// Sends a request through `shop` and `catalog` to `stock` until it is one trace. No program propagates anything.
fn through_three(environment: &Environment, running: &mut Running) -> Result<()> {
    wait::until("a trace through three sandboxes", wait::SOON, || {
        running.send_alone()?;
        wait::hold(SHOWN)?;
        Ok(chains(environment, ALONE)?.iter().any(|found| found.len() == CHAIN.len()).then_some(()))
    })
}

/// Sends four at a time through all three, until each was a trace from the call of `shop` on: which of its requests that one was made for
/// is not known of an event loop that has several.
fn together(environment: &Environment, running: &mut Running) -> Result<()> {
    wait::until("traces of requests that are served together", wait::SOON, || {
        running.send_together(Default::default())?;
        wait::hold(SHOWN)?;
        for offer in TOGETHER {
            let found = chains(environment, offer)?;
            ensure!(found.iter().any(|chain| chain.len() + 1 >= CHAIN.len()), "{}: {found:?}", offer.route);
        }
        Ok(Some(()))
    })
}

/// The same with a trace context that all programs hand on: each request is one trace of the whole way, with the id that was sent.
fn propagated(environment: &Environment, running: &mut Running) -> Result<()> {
    let mut sent = Vec::new();
    wait::until("traces with the ids that were sent", wait::SOON, || {
        let first = 0x5eed_0000 + TOGETHER.len() * sent.len();
        let ids: [String; 4] = std::array::from_fn(|at| format!("{:032x}", first + at));
        let context = |id: &String| format!("traceparent: 00-{id}-00f067aa0ba902b7-01\r\n");
        running.send_together(ids.each_ref().map(context))?;
        sent.push(ids);
        wait::hold(SHOWN)?;
        for offer in TOGETHER {
            chains(environment, offer)?;
        }
        // Spans may come later than the next requests were sent.
        let newest = sent.iter().rev().take(ROUNDS).map(|ids| assert_traces_of(environment, ids));
        newest.reduce(Result::or).context("nothing was sent")?.map(Some)
    })?;
    // One round that is complete does not outweigh a wrong span of another.
    sent.iter().try_for_each(|ids| assert_own(environment, ids))
}

/// Demands that there is one trace with each of these ids, from the request to `shop` to that to `stock`.
fn assert_traces_of(environment: &Environment, ids: &[String; 4]) -> Result<()> {
    for (offer, id) in TOGETHER.into_iter().zip(ids) {
        let trees = environment.exporter()?.trees("acme", id)?;
        let [tree] = &trees[..] else { bail!("{} traces with the id {id}: {trees:#?}", trees.len()) };
        ensure!(assert_chain(tree, offer)?.len() == CHAIN.len(), "{id}: {trees:#?}");
    }
    Ok(())
}

/// Demands that the traces with each of these ids have no span of another request.
fn assert_own(environment: &Environment, ids: &[String; 4]) -> Result<()> {
    for (offer, id) in TOGETHER.into_iter().zip(ids) {
        let trees = environment.exporter()?.trees("acme", id)?;
        let routes = [offer.route, offer.inner].map(Value::from);
        ensure!(trees.iter().flatten().all(|span| routes.contains(&span["resource"])), "{id}: {trees:#?}");
    }
    Ok(())
}

/// The traces through `stock` in which one request's calls are joined, each as how the parents of its spans are known.
fn chains(environment: &Environment, offer: Offer) -> Result<Vec<Vec<Option<String>>>> {
    let query = format!("tenant=acme&service_name=stock&route={}&spans_min=2", offer.inner);
    let listed = environment.exporter()?.traces(&query)?;
    let owned = |chain: Vec<Option<&str>>| chain.into_iter().map(|known| known.map(str::to_owned)).collect();
    let found = trees(environment, &listed)?;
    through_stock(&found).map(|tree| assert_chain(tree, offer).map(owned)).collect()
}

/// Demands that a trace's spans are those of one such request, in order, as many as were sampled up to the last one. Returns how the
/// parent of each is known.
fn assert_chain(tree: &[Value], offer: Offer) -> Result<Vec<Option<&str>>> {
    let missing =
        CHAIN.len().checked_sub(tree.len()).with_context(|| format!("too many spans: {tree:#?}"))?;
    for (at, (span, (service, side))) in tree.iter().zip(&CHAIN[missing..]).enumerate() {
        let (found_service, found_side, status, certainty) = place(span);
        ensure!((found_service, found_side, status) == (*service, *side, "503"), "{tree:#?}");
        let expected: &[Option<&str>] = match (at, *service, *side) {
            (0, ..) => &[None],
            (_, "shop", _) => &[Some("thread"), Some("task"), Some("propagated")],
            (_, _, "client") => &[Some("thread")],
            _ => &[Some("connection")],
        };
        ensure!(expected.contains(&certainty), "{tree:#?}");
        let is_inner = (*service, *side) == ("catalog", "client") || *service == "stock";
        ensure!(span["resource"] == if is_inner { offer.inner } else { offer.route }, "{tree:#?}");
    }
    assert_one_below_another(tree)?;
    Ok(tree.iter().map(|span| span["certainty"].as_str()).collect())
}

/// Demands that each span is below the one before.
fn assert_one_below_another(tree: &[Value]) -> Result<()> {
    let depths = tree.iter().map(|span| span["depth"].as_u64());
    ensure!(depths.eq((0..).take(tree.len()).map(Some)), "{tree:#?}");
    Ok(())
}

/// The spans of each trace with an id of a listing.
fn trees(environment: &Environment, listed: &[Value]) -> Result<Vec<Vec<Value>>> {
    let mut found = Vec::new();
    for summary in listed {
        let id = summary["trace_id"].as_str().context("a trace's id")?;
        found.extend(environment.exporter()?.trees("acme", id)?);
    }
    Ok(found)
}

/// Those that went through `stock`.
fn through_stock(trees: &[Vec<Value>]) -> impl Iterator<Item = &Vec<Value>> {
    trees.iter().filter(|tree| tree.iter().any(|span| span["service_name"] == "stock"))
}

/// Whose span it is: application, side, status, and how its parent is known.
fn place(span: &Value) -> (&str, &str, &str, Option<&str>) {
    let text = |name: &str| span[name].as_str().unwrap_or_default();
    (text("service_name"), text("side"), text("status"), span["certainty"].as_str())
}
