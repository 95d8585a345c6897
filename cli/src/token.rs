//! `porthole token`: bearer tokens for the exporter.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use clap::{ArgGroup, Args, Subcommand};
use porthole_access::{DEFAULT_FILE, Grants, NewToken, Scope, Token};
use porthole_config::{ConfigFile, Section};
use serde::{Deserialize, Serialize};

use crate::table::{self, row};

const EXAMPLES: &str = "\
Examples:
  porthole token create prometheus --operator > /etc/prometheus/porthole.token
  porthole token create acme-prometheus --tenant acme --expires 90d
  porthole token list
  porthole token revoke acme-prometheus

A tenant's token reads /tenants/<tenant>/metrics and that tenant's part of /api/v1; an operator's token reads everything:
  curl -H \"Authorization: Bearer $(cat porthole.token)\" http://node:9464/metrics

The exporter reads the file again within a second after a change.";

/// How long a token is valid unless `--expires` gives another time.
const EXPIRES: &str = "365d";

/// Options of `porthole token`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a token and print it, this once
    Create(CreateOptions),
    /// List tokens, what they admit to, and until when
    List(ListOptions),
    /// Remove a token, which then admits to nothing
    Revoke(RevokeOptions),
}

#[derive(Debug, Args)]
struct Place {
    /// File with the tokens' digests; default: `[exporter] access_file` of the configuration
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Configuration file; default: `PORTHOLE_CONFIG`, else /etc/porthole/porthole.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group = ArgGroup::new("scope").required(true).args(["operator", "tenant"]))]
struct CreateOptions {
    /// What the token is for; `list` shows it, and `revoke` takes it
    name: String,
    /// It reads everything
    #[arg(long)]
    operator: bool,
    /// It reads what belongs to this tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// How long it is valid, as `90d` or `12h`, or `never`
    #[arg(long, value_name = "DURATION", default_value = EXPIRES, value_parser = lifetime)]
    expires: Lifetime,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct ListOptions {
    /// Print one JSON object with `tokens`
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct RevokeOptions {
    /// Name of the token
    name: String,
    #[command(flatten)]
    place: Place,
}

/// How long a token is valid; `None` is for ever.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Lifetime(Option<Duration>);

fn lifetime(text: &str) -> Result<Lifetime, String> {
    if text == "never" {
        return Ok(Lifetime(None));
    }
    let duration = humantime::parse_duration(text).map_err(|error| format!("{error}: `90d` is 90 days"))?;
    let representable = || SystemTime::now().checked_add(duration);
    // The year 9999 is the last one that RFC 3339 can write.
    if duration.is_zero() || duration.as_secs() / 86_400 > 365 * 1_000 || representable().is_none() {
        return Err("more than nothing and at most 1000 years; `never` for no end".to_owned());
    }
    Ok(Lifetime(Some(duration)))
}

/// What is read of `[exporter]`.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Exporter {
    access_file: PathBuf,
}

impl Default for Exporter {
    fn default() -> Self {
        Self { access_file: DEFAULT_FILE.into() }
    }
}

impl Section for Exporter {
    const NAME: &'static str = "exporter";
}

impl Place {
    fn file(&self) -> Result<PathBuf> {
        match &self.file {
            Some(file) => Ok(file.clone()),
            None => Ok(ConfigFile::load(self.config.as_deref())?.section::<Exporter>()?.access_file),
        }
    }
}

/// Makes, lists or revokes.
pub fn run(options: &Options) -> Result<()> {
    let now = SystemTime::now();
    match &options.command {
        Command::Create(options) => {
            create(&options.place.file()?, options, now, &mut io::stdout(), &mut io::stderr())
        }
        Command::List(options) => {
            let grants = porthole_access::read(&options.place.file()?)?;
            let tokens = listed(&grants, now);
            if options.json {
                table::json(&serde_json::json!({ "tokens": tokens }))?;
            } else {
                table::to_stdout(|out| print(&tokens, out))?;
            }
            Ok(())
        }
        Command::Revoke(options) => {
            let revoked =
                porthole_access::update(&options.place.file()?, |grants| grants.revoke(&options.name))?;
            println!("revoked: {} ({})", revoked.name, revoked.scope);
            Ok(())
        }
    }
}

/// The token alone goes to `out`, so that it can be redirected into a file.
fn create(
    file: &Path,
    options: &CreateOptions,
    now: SystemTime,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> Result<()> {
    let scope = options.tenant.clone().map_or(Scope::Operator, Scope::Tenant);
    let expires = options.expires.0.map(|lifetime| now + lifetime);
    let made = NewToken::make(&options.name, scope, now, expires).context("make a token")?;
    porthole_access::update(file, |grants| grants.add(made.token.clone()))
        .with_context(|| format!("add a token to {}", file.display()))?;
    let shown = writeln!(out, "{}", made.expose()).and_then(|()| out.flush());
    if let Err(error) = shown {
        // It was shown to no one: it must not stay valid.
        porthole_access::update(file, |grants| grants.revoke(&options.name))?;
        bail!("the token could not be written and was revoked: {error}");
    }
    writeln!(
        notes,
        "token {}: {}, expires {}; it is shown this once, {} has its digest",
        made.token.name,
        made.token.scope,
        until(&made.token),
        file.display()
    )?;
    Ok(())
}

fn until(token: &Token) -> String {
    token
        .expires
        .map_or_else(|| "never".to_owned(), |time| humantime::format_rfc3339_seconds(time).to_string())
}

/// A token as `list` shows it.
#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    scope: &'a Scope,
    created: String,
    expires: Option<String>,
    expired: bool,
}

fn listed(grants: &Grants, now: SystemTime) -> Vec<Listed<'_>> {
    let time = |time| humantime::format_rfc3339_seconds(time).to_string();
    let listed = grants.tokens.iter().map(|token| Listed {
        name: &token.name,
        scope: &token.scope,
        created: time(token.created),
        expires: token.expires.map(time),
        expired: token.has_expired(now),
    });
    listed.collect()
}

fn print(tokens: &[Listed<'_>], out: &mut dyn Write) -> io::Result<()> {
    let mut rows = vec![row(["name", "scope", "created", "expires"])];
    for token in tokens {
        let expires = token.expires.as_deref().unwrap_or("never");
        let note = if token.expired { " (expired)" } else { "" };
        rows.push(row([token.name, &token.scope.to_string(), &token.created, &format!("{expires}{note}")]));
    }
    table::print(&rows, &[], out)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(line: &str) -> Result<Options, clap::Error> {
        Line::try_parse_from(line.split(' ')).map(|line| line.options)
    }

    fn created(file: &Path, line: &str, now: SystemTime) -> (String, String) {
        let Command::Create(options) = options(line).expect(line).command else { panic!("{line}") };
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        create(file, &options, now, &mut out, &mut notes).expect("created");
        (String::from_utf8(out).expect("text"), String::from_utf8(notes).expect("text"))
    }

    #[test]
    fn a_token_is_printed_once_alone_and_listed_without_its_text() {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("access.toml");
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
        let (text, notes) = created(&file, "token create prometheus --operator --expires never", now);
        let (of_tenant, _) = created(&file, "token create acme --tenant acme --expires 1h", now);
        assert!(notes.contains("operator") && !notes.contains(text.trim()), "{notes}");
        let grants = porthole_access::read(&file).expect("read");
        assert_eq!(grants.bearer(text.strip_suffix('\n').expect("a line"), now), Some(&Scope::Operator));
        let acme = Scope::Tenant("acme".to_owned());
        assert_eq!(grants.bearer(of_tenant.trim_end(), now), Some(&acme));
        let tokens = listed(&grants, now + Duration::from_hours(1));
        let mut table = Vec::new();
        print(&tokens, &mut table).expect("printed");
        let json = serde_json::to_string(&tokens).expect("JSON");
        for shown in [String::from_utf8(table).expect("text"), json] {
            assert!(!shown.contains(text.trim_end()), "{shown}");
            for part in ["prometheus", "operator", "acme", "2027-01-15T08:00:00Z", "expired"] {
                assert!(shown.contains(part), "{part}: {shown}");
            }
        }
    }

    #[test]
    fn a_scope_is_needed_and_lifetimes_are_bounded() {
        for line in [
            "token create a",
            "token create a --operator --tenant b",
            "token create a --operator --expires x",
        ] {
            options(line).expect_err(line);
        }
        assert_eq!(lifetime("never"), Ok(Lifetime(None)));
        assert_eq!(lifetime("90d"), Ok(Lifetime(Some(Duration::from_hours(90 * 24)))));
        for text in ["0s", "2000years", "18446744073709551615s", "d"] {
            lifetime(text).expect_err(text);
        }
    }
}
