//! Requests through three sandboxes of `acme`: `shop`, an nginx, `catalog`, and `stock` behind it, both in Python.

use std::thread;

use anyhow::{Context, Result, anyhow, ensure};

use super::{Application, CATALOG, Running, SHOP, Side, plain};
use crate::{container::PORTHOLE, http::Connection};

/// What `catalog` calls, whose address stands in `applications/catalog.py`. Only tests start it.
pub const STOCK: Application = Application {
    tenant: "acme",
    service: "stock",
    host: 14,
    port: 8000,
    command: &["/usr/bin/python3", "/srv/stock.py"],
};

/// A request for an offer: its path, and the routes that both of its calls have. Every one fails, because that is what agents sample
/// for sure.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    path: &'static str,
    /// As `shop` and `catalog` get it.
    pub route: &'static str,
    /// As `stock` gets it.
    pub inner: &'static str,
}

/// Sent alone.
pub const ALONE: Offer =
    Offer { path: "/offers/garden/4711", route: "/offers/garden/{}", inner: "/stock/garden/{}" };

/// Sent together. Each has routes of its own, so that a call which is joined with another one's request shows.
pub const TOGETHER: [Offer; 4] = [
    Offer { path: "/offers/red/1?together", route: "/offers/red/{}", inner: "/stock/red/{}" },
    Offer { path: "/offers/green/2?together", route: "/offers/green/{}", inner: "/stock/green/{}" },
    Offer { path: "/offers/blue/3?together", route: "/offers/blue/{}", inner: "/stock/blue/{}" },
    Offer { path: "/offers/white/4?together", route: "/offers/white/{}", inner: "/stock/white/{}" },
];

/// What `stock` answers, and so all before it.
const STATUS: u16 = 503;

impl Running {
    /// Starts `stock` if it does not run.
    pub fn need_stock(&mut self, progress: &dyn Fn(&str)) -> Result<()> {
        if self.containers.contains_key(STOCK.service) {
            return Ok(());
        }
        let id = self.environment.unique(STOCK.service);
        self.start_one(STOCK, PORTHOLE, &id, progress)
    }

    /// Stops it.
    pub fn stop_stock(&mut self) -> Result<()> {
        self.containers.remove(STOCK.service).context("stock runs")?.remove()
    }

    /// Sends the request that is alone.
    pub fn send_alone(&mut self) -> Result<()> {
        self.send_offers(&[(ALONE, String::new())])
    }

    /// Sends those that are together: none is answered before all have reached `stock`. Each has these header lines.
    pub fn send_together(&mut self, headers: [String; 4]) -> Result<()> {
        let offers: Vec<_> = TOGETHER.into_iter().zip(headers).collect();
        self.send_offers(&offers)
    }

    /// Sends requests at the same time, each on a connection of its own.
    fn send_offers(&mut self, offers: &[(Offer, String)]) -> Result<()> {
        let to = self.at(SHOP)?;
        let connections = offers.iter().map(|_| self.environment.from_hub(|| Connection::open(to)));
        let connections = connections.collect::<Result<Vec<_>>>()?;
        thread::scope(|scope| {
            let sent: Vec<_> = offers
                .iter()
                .zip(connections)
                .map(|((offer, headers), mut connection)| {
                    scope.spawn(move || {
                        connection.send("GET", offer.path, headers)?;
                        let status = connection.receive("GET")?.status;
                        ensure!(status == STATUS, "{}: {status}", offer.path);
                        Ok(())
                    })
                })
                .collect();
            sent.into_iter().try_for_each(|one| one.join().map_err(|_| anyhow!("a client panicked"))?)
        })?;
        for (offer, _) in offers {
            let ends = [
                (SHOP, Side::Server, offer.route),
                (SHOP, Side::Client, offer.route),
                (CATALOG, Side::Server, offer.route),
                (CATALOG, Side::Client, offer.inner),
                (STOCK, Side::Server, offer.inner),
            ];
            for (application, side, route) in ends {
                let request = plain(SHOP, "GET", offer.path, route, STATUS, 1);
                let key = self.key(&request, application, side)?;
                *self.sent.entry(key).or_default() += 1;
            }
        }
        Ok(())
    }
}
