//! Routes: their templates, bounds and collapsing, where every segment is taken for code.

use std::collections::HashMap;

use super::{template::template, *};

const LIMIT: usize = 200;
const NOW: Sighting = Sighting { client: 1, at: Timestamp(0) };

#[derive(Default)]
struct App {
    routes: Routes,
    names: Vec<String>,
    counts: HashMap<String, usize>,
}

impl App {
    fn request(&mut self, path: &str, status: u32) {
        let mut text = String::new();
        template(path.as_bytes(), &mut text);
        let route = self.routes.begin(&text);
        let names = &mut self.names;
        let symbol = self.routes.finish(route, Status::Code(status), NOW, true, LIMIT, |name| {
            names.push(name.to_owned());
            Symbol(u32::try_from(names.len()).expect("few") + 1)
        });
        let name = if symbol.is_other() { "other" } else { &self.names[symbol.0 as usize - 2] };
        *self.counts.entry(name.to_owned()).or_default() += 1;
    }

    fn all_real(&mut self) {
        for path in REAL {
            self.request(path, 200);
        }
    }

    fn count(&self, route: &str) -> usize {
        self.counts.get(route).copied().unwrap_or(0)
    }
}

/// A word without digits, different for each number.
fn word(mut number: usize) -> String {
    let mut text = String::from("w");
    for _ in 0..5 {
        text.push(char::from(b'g' + u8::try_from(number % 19).expect("small")));
        number /= 19;
    }
    text
}

const REAL: [&str; 6] = ["/", "/login", "/api/users", "/api/orders", "/static/site.css", "/health"];

#[test]
fn a_crawler_of_missing_pages_leaves_real_routes_exact() {
    let mut app = App::default();
    for round in 0..100_000 {
        app.request(&format!("/{}", word(round)), 404);
        if round % 100 == 50 {
            app.all_real();
        }
    }
    for path in REAL {
        assert_eq!(app.count(path), 1000, "{path}");
    }
    assert!(app.names.len() <= LIMIT, "{}", app.names.len());
    assert!(app.count("other") > 99_000);
}

#[test]
fn a_crawler_that_finds_pages_everywhere_leaves_real_routes_exact() {
    let mut app = App::default();
    app.all_real();
    for round in 0..100_000 {
        let path = match round % 3 {
            0 => format!("/{}", word(round)),
            1 => format!("/{}/{}", word(round), word(round / 3)),
            _ => format!("/api/{}/{}/{}", word(round), word(round / 7), word(round / 2)),
        };
        app.request(&path, 200);
        if round % 100 == 50 {
            app.all_real();
        }
    }
    for path in REAL {
        assert_eq!(app.count(path), 1001, "{path}");
    }
    assert!(app.names.len() <= LIMIT, "{}", app.names.len());
    assert!(app.count("/{}") > 25_000, "{}", app.count("/{}"));
}

#[test]
fn a_real_route_that_appears_after_the_crawler_gets_its_name() {
    let mut app = App::default();
    for round in 0..100_000 {
        app.request(&format!("/{}", word(round)), 200);
    }
    for _ in 0..1000 {
        app.request("/late", 200);
    }
    assert!(app.count("/late") >= 1000 - usize::from(RECURRING) - 20, "{}", app.count("/late"));
    assert!(app.names.len() <= LIMIT);
}

#[test]
fn real_routes_after_a_crawler_of_missing_pages_are_exact() {
    let mut app = App::default();
    for round in 0..100_000 {
        app.request(&format!("/{}", word(round)), 404);
    }
    for path in REAL {
        app.request(path, 200);
        assert_eq!(app.count(path), 1, "{path}");
    }
}

#[test]
fn a_few_missing_pages_keep_their_names() {
    let mut app = App::default();
    for path in ["/gone", "/missing", "/gone"] {
        app.request(path, 404);
    }
    assert_eq!((app.count("/gone"), app.count("/missing")), (2, 1));
}

#[test]
fn a_small_application_keeps_all_its_routes() {
    let mut app = App::default();
    for round in 0..3 {
        for resource in 0..30 {
            for verb in ["list", "show", "edit"] {
                app.request(&format!("/{}/{verb}", word(resource)), 200);
                assert_eq!(app.count(&format!("/{}/{verb}", word(resource))), round + 1);
            }
        }
    }
    assert_eq!(app.count("other"), 0);
}

#[test]
fn concurrent_requests_for_a_new_path_share_its_route() {
    let mut routes = Routes::default();
    let (first, second) = (routes.begin("/new"), routes.begin("/new"));
    let symbol = routes.finish(first, Status::Code(200), NOW, true, LIMIT, |_| Symbol(7));
    assert_eq!(symbol, Symbol(7));
    assert_eq!(routes.finish(second, Status::Code(404), NOW, true, LIMIT, |_| unreachable!()), Symbol(7));
}

#[test]
fn an_overwritten_provisional_route_is_other() {
    let mut routes = Routes::default();
    let first = routes.begin("/first");
    for number in 0..20 * PROVISIONAL_MAX {
        routes.begin(&word(number));
    }
    assert_eq!(routes.finish(first, Status::Code(200), NOW, true, LIMIT, |_| unreachable!()), Symbol::OTHER);
}

#[test]
fn routes_that_are_not_used_make_room() {
    let mut routes = Routes::default();
    let mut number = 1;
    let mut request = |path: String, at: u64| {
        let route = routes.begin(&path);
        let sighting = Sighting { client: 1, at: Timestamp(at) };
        let symbol = routes.finish(route, Status::Code(200), sighting, true, 30, |_| {
            number += 1;
            Symbol(number)
        });
        assert!(routes.known.len() <= 30 && routes.all.len() <= 30);
        !symbol.is_other()
    };
    // Deep, so that no place collapses.
    let path = |round: usize, number: usize| format!("/{}/{}", word(number % 3), word(round * 30 + number));
    for round in 0..3 {
        let mut named = 0;
        for number in 0..60 {
            for _ in 0..20 {
                named += usize::from(request(path(round, number), (round as u64 + 1) * UNUSED_NS));
            }
        }
        assert!(named >= 10 * 20, "{round}: {named}");
    }
}

#[test]
fn a_place_is_no_longer_collapsed_when_the_routes_below_it_are_gone() {
    for at in 0..2 {
        let mut app = App::default();
        for number in 0..100 {
            app.request(&format!("/{}", word(number)), 200);
        }
        app.request("/late", 200);
        assert_eq!(app.count("/late"), 0, "the place is collapsed");
        // The symbols of the former stand for other names by now, or what was learned there was data.
        match at {
            0 => app.routes.retain(|_| false),
            _ => app.routes.forget_if(|route| route.name.starts_with("/w") || &*route.name == "/{}"),
        }
        assert!(app.routes.places.len() <= 1, "{} places of no route", app.routes.places.len());
        app.request("/late", 200);
        assert_eq!(app.count("/late"), 1);
    }
}
