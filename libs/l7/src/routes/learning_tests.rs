//! What becomes part of a route, on lists of public interfaces, names of persons, words and tokens.

use std::collections::HashSet;

use super::{learning::*, template::template, vocabulary::is_made_of_words, *};
use crate::Timestamp;

const ROUTES: &str = include_str!("lists/routes.txt");
const PERSONS: &str = include_str!("lists/persons.txt");
const SECRETS: &str = include_str!("lists/secrets.txt");
const TOKENS: &str = include_str!("lists/tokens.txt");

const SECOND: u64 = 1_000_000_000;

fn words(text: &str) -> Vec<&str> {
    text.split_ascii_whitespace().collect()
}

fn routes() -> Vec<&'static str> {
    ROUTES.lines().filter(|line| line.starts_with('/')).collect()
}

/// An application's routes, as they are named.
#[derive(Default)]
struct App {
    routes: Routes,
    names: Vec<String>,
    now: u64,
}

impl App {
    /// A request that is answered with success a second after the last one; gives its route's name.
    fn request(&mut self, path: &str, client: u64) -> String {
        self.answered(path, client, 200)
    }

    fn answered(&mut self, path: &str, client: u64, status: u32) -> String {
        self.now += SECOND;
        let mut text = String::new();
        template(path.as_bytes(), &mut text);
        let route = self.routes.begin(&text);
        let sighting = Sighting { client, at: Timestamp(self.now) };
        let names = &mut self.names;
        let symbol = self.routes.finish(route, Status::Code(status), sighting, false, 2000, |name| {
            let known = names.iter().position(|known| known == name);
            let at = known.unwrap_or_else(|| {
                names.push(name.to_owned());
                names.len() - 1
            });
            Symbol(u32::try_from(at).expect("few") + 2)
        });
        if symbol.is_other() { "other".to_owned() } else { self.names[symbol.0 as usize - 2].clone() }
    }

    /// Segments of all names that were given and are none of the words of programs.
    fn unusual(&self) -> HashSet<&str> {
        let segments = self.names.iter().flat_map(|name| name.split('/'));
        segments.filter(|segment| *segment != "{}" && !is_made_of_words(segment)).collect()
    }
}

/// A path of a route, with values in the places of its braces.
fn path(route: &str, mut value: impl FnMut() -> String) -> String {
    let mut parts = route.split("{}");
    let mut path = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        path.push_str(&value());
        path.push_str(part);
    }
    path
}

#[test]
fn most_routes_of_public_interfaces_have_their_name_from_the_first_request_on() {
    let mut app = App::default();
    let routes = routes();
    // `{}` where the documentation has it: behind `users` and the like a value is expected anyway.
    let named = |app: &mut App, route: &str| app.request(&path(route, || "4711".into()), 1) == route;
    let missing: Vec<&&str> = routes.iter().filter(|route| !named(&mut app, route)).collect();
    assert!(missing.len() * 10 <= routes.len(), "{} of {}: {missing:?}", missing.len(), routes.len());
}

#[test]
fn routes_of_public_interfaces_are_learned_and_their_values_are_not() {
    let mut app = App::default();
    let values: Vec<&str> = [PERSONS, SECRETS, TOKENS].into_iter().flat_map(words).collect();
    let mut random = crate::testing::Random(7);
    let mut told = Vec::new();
    for round in 0..12 {
        told.clear();
        for route in routes() {
            let path = path(route, || values[random.below(values.len())].to_owned());
            told.push((route, app.request(&path, round % 4)));
        }
    }
    let wrong: Vec<&(&str, String)> = told.iter().filter(|(route, name)| route != name).collect();
    assert!(wrong.len() * 20 <= told.len(), "{} of {}: {wrong:?}", wrong.len(), told.len());
    let usual: HashSet<&str> = routes().into_iter().flat_map(|route| route.split('/')).collect();
    let data: Vec<&str> = app.unusual().into_iter().filter(|segment| !usual.contains(segment)).collect();
    assert!(data.is_empty(), "{data:?}");
}

#[test]
fn names_of_persons_are_data_however_often_each_comes() {
    for parent in ["/t/", "/wiki/", "/", "/a/b/"] {
        let mut app = App::default();
        let persons = words(PERSONS);
        // Each from three devices, ten times and more.
        for round in 0..40 {
            for (number, person) in persons.iter().enumerate() {
                app.request(&format!("{parent}{person}"), number as u64 * 3 + round % 3);
            }
        }
        assert!(app.unusual().is_empty(), "{parent}: {:?}", app.unusual());
    }
}

#[test]
fn pages_that_everybody_reads_are_data_when_there_are_many() {
    let mut app = App::default();
    let mut random = crate::testing::Random(3);
    let pages: Vec<&str> = [SECRETS, PERSONS].into_iter().flat_map(words).collect();
    for _ in 0..20_000 {
        // Some are read far more often than others.
        let popular = random.below(pages.len()).min(random.below(pages.len())).min(random.below(pages.len()));
        app.request(&format!("/page/{}", pages[popular]), random.next() % 100);
    }
    assert!(app.unusual().is_empty(), "{:?}", app.unusual());
}

#[test]
fn tokens_are_never_part_of_a_route() {
    let mut app = App::default();
    for round in 0..50 {
        for (number, token) in words(TOKENS).into_iter().enumerate() {
            // Each alone at its place, and all at one.
            for parent in
                [format!("/x{}/", char::from(b'a' + u8::try_from(number % 26).expect("small"))), "/t/".into()]
            {
                let name = app.request(&format!("{parent}{token}"), round % 5);
                assert!(name.ends_with("/{}") || name.contains("/{}."), "{name} of {token}");
            }
        }
    }
}

#[test]
fn a_word_of_the_applications_own_is_learned_from_several_clients_over_time() {
    let learned = |clients: u64, requests: u64, status: u32| {
        let mut app = App::default();
        (0..requests).any(|at| app.answered("/gizmos/list", at % clients, status) == "/gizmos/list")
    };
    assert!(learned(3, 12, 200));
    assert!(learned(30, 12, 500));
    assert!(!learned(2, 1000, 200), "of too few clients");
    assert!(!learned(3, 7, 200), "too seldom");
    assert!(!learned(3, 1000, 404), "of nothing that is there");
    let mut app = App::default();
    for client in 0..1000 {
        app.now = 0;
        assert_eq!(app.request("/gizmos/list", client), "/{}/list", "all at once");
    }
    assert_eq!(App::default().request("/gizmos/list", 1), "/{}/list");
}

#[test]
fn a_path_that_was_not_learned_for_long_keeps_its_name_so_that_the_kernel_may_aggregate_it() {
    let mut app = App::default();
    for _ in 0..2 {
        for _ in 0..300 {
            assert_eq!(app.request("/t/gizmos", 1), "/t/{}");
        }
        assert!(app.routes.begin("/t/gizmos").is_known());
        // Others fill the bound.
        for number in 0..2 * SETTLED_MAX {
            let word: String =
                number.to_string().bytes().map(|digit| char::from(digit - b'0' + b'g')).collect();
            for _ in 0..SETTLED + 3 {
                app.request(&format!("/t/zz{word}zz"), 1);
            }
            assert!(app.routes.settled.len() <= SETTLED_MAX);
        }
    }
    assert_eq!(app.names.len(), 1, "{:?}", app.names);
}

#[test]
fn what_was_learned_at_a_place_that_turns_out_to_be_for_data_is_forgotten() {
    let mut app = App::default();
    for at in 0..20 {
        app.request("/t/gizmos", at % 4);
    }
    assert_eq!(app.request("/t/gizmos", 1), "/t/gizmos");
    for person in words(PERSONS) {
        app.request(&format!("/t/{person}"), 1);
    }
    assert_eq!(app.request("/t/gizmos", 1), "/t/{}");
    // Words of programs stay as long as they recur.
    let mut app = App::default();
    app.request("/t/search", 1);
    for person in words(PERSONS) {
        app.request(&format!("/t/{person}"), 1);
    }
    assert_eq!(app.request("/t/search", 1), "/t/search");
    assert_eq!(app.request("/t/report", 1), "/t/{}");
    for at in 0..20 {
        app.request("/t/report", at % 4);
    }
    assert_eq!(app.request("/t/report", 1), "/t/report");
}

#[test]
fn places_are_bounded_and_those_that_are_not_used_are_forgotten() {
    let words = words(include_str!("vocabulary.txt"));
    let mut segments = Segments::default();
    let mut now = 0;
    for round in 0..2 {
        for (number, word) in words.iter().take(2 * PLACES_MAX).enumerate() {
            now += SECOND;
            let sighting = Sighting { client: number as u64, at: Timestamp(now) };
            segments.name(&format!("/v{round}/{word}/xyzzy"), Some(sighting));
            assert!(segments.len() <= PLACES_MAX);
        }
        for at in 0..12 {
            now += SECOND;
            let sighting = Sighting { client: at % 4, at: Timestamp(now) };
            segments.name(&format!("/new{round}/xyzzy"), Some(sighting));
        }
        let name = |segments: &mut Segments, path| segments.name(path, None).text.into_owned();
        assert_eq!(name(&mut segments, "/new0/xyzzy"), if round == 0 { "/new0/xyzzy" } else { "/new0/{}" });
        assert!(round == 0 || name(&mut segments, "/new1/xyzzy") == "/new1/xyzzy");
    }
}
