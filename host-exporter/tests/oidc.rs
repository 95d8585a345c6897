//! Log-in by `OpenID` Connect with the repository's example: nginx and oauth2-proxy in front of the exporter, and a mock of a provider.

mod support;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::SystemTime,
};

use porthole_access::{NewToken, Scope};
use porthole_exporter::config;
use porthole_trials::{CannotRun, Outcome, needs, ports::free_address, reasons, trials};
use serde_json::Value;
use support::{
    Host,
    agent::{TestAgent, http},
    get, record, wait_for,
};
use tokio::runtime::Runtime;

/// Names the folder with oauth2-proxy and the mock.
const PROGRAMS_ENV: &str = "PORTHOLE_OIDC";

const NGINX: &str = "/usr/sbin/nginx";

/// 32 bytes.
const COOKIE_SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// The name under which browsers reach nginx.
const NAME: &str = "porthole.example.com";

fn main() -> ExitCode {
    porthole_trials::run(trials![who_signs_in_at_the_provider_sees_the_tenant_of_their_group])
}

fn programs() -> Result<PathBuf, CannotRun> {
    needs::program(NGINX)?;
    needs::program("curl")?;
    let folder = std::env::var_os(PROGRAMS_ENV).map(PathBuf::from);
    let is_whole =
        |folder: &PathBuf| ["oauth2-proxy", "mock-oidc"].iter().all(|name| folder.join(name).exists());
    folder.filter(is_whole).ok_or_else(|| CannotRun::because(reasons::NO_OIDC))
}

/// A process that ends with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("started"),
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A file of `deploy/oidc` with other addresses.
fn example(name: &str, changes: &[(&str, String)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/oidc").join(name);
    let mut text = std::fs::read_to_string(path).expect("the example");
    for (found, other) in changes {
        assert!(text.contains(found), "{name} has no {found}");
        text = text.replace(found, other);
    }
    text
}

/// nginx in one process, with the example.
fn start_nginx(host: &Host, [nginx, proxy, exporter]: [SocketAddr; 3], tokens: &[(&str, String)]) -> Running {
    let folder = host.directory().display();
    let lines: Vec<_> =
        tokens.iter().map(|(group, token)| format!("\"~(^|,){group}(,|$)\" \"{token}\";\n")).collect();
    std::fs::write(host.socket("tokens.conf"), lines.concat()).expect("written");
    let tls =
        "    ssl_certificate /etc/nginx/porthole.pem;\n    ssl_certificate_key /etc/nginx/porthole.key;\n";
    let server = example(
        "nginx.conf",
        &[
            ("/etc/nginx/porthole-tokens.conf", format!("{folder}/tokens.conf")),
            (tls, String::new()),
            ("443 ssl", nginx.to_string()),
            ("127.0.0.1:4180", proxy.to_string()),
            ("127.0.0.1:9464", exporter.to_string()),
        ],
    );
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {folder}/{kind};\n"))
        .concat();
    let text = format!(
        "daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log {folder}/nginx.log;\nevents {{}}\n\
         http {{\naccess_log off;\n{temporary}{server}}}\n"
    );
    let file = host.socket("nginx.conf");
    std::fs::write(&file, text).expect("written");
    Running::start(Command::new(NGINX).arg("-p").arg(host.directory()).arg("-c").arg(file))
}

/// What a browser with cookies of its own ends at: status and body.
struct Browser {
    cookies: PathBuf,
    nginx: SocketAddr,
}

impl Browser {
    async fn open(&self, path: &str) -> (u16, String) {
        let port = self.nginx.port();
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--location", "--max-time", "180", "--write-out", "\n%{http_code}"])
            .args(["--noproxy", "*", "--connect-to", &format!("{NAME}:{port}:{}", self.nginx)])
            // Which the proxy replaces.
            .args(["--header", "Authorization: Bearer none", "--header", "X-Auth-Request-Groups: globex"])
            .arg("--cookie")
            .arg(&self.cookies)
            .arg("--cookie-jar")
            .arg(&self.cookies)
            .arg(format!("http://{NAME}:{port}{path}"));
        let output = tokio::task::spawn_blocking(move || curl.output()).await.expect("ended").expect("curl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').expect("a status");
        (status.parse().expect("a number"), body.to_owned())
    }
}

fn who_signs_in_at_the_provider_sees_the_tenant_of_their_group() -> Outcome {
    let programs = programs()?;
    Runtime::new()?.block_on(async {
        let host = Host::new();
        let config = config::Exporter {
            hosts: vec![NAME.into(), "test".into()],
            loopback_without_token: false,
            ..host.config()
        };
        let mut tokens = Vec::new();
        let mut kept = Vec::new();
        for tenant in ["acme", "globex"] {
            let scope = Scope::Tenant(tenant.to_owned());
            let token = NewToken::make(tenant, scope, SystemTime::now(), None)?;
            porthole_access::update(&config.access_file, |grants| grants.add(token.token.clone()))?;
            tokens.push((tenant, token.expose().to_owned()));
            let socket = host.socket(tenant);
            let agent = TestAgent::start(&socket, 7).await;
            let service = format!("shop-of-{tenant}");
            agent.tell(vec![http(1, &service, "/", "200", 5, 1)]);
            kept.push((host.companion(&record(&service, tenant, &service, &socket)), agent));
        }
        let exporter = host.start_with(&config);
        for (tenant, token) in &tokens {
            let authorization = format!("Authorization: Bearer {token}\r\n");
            wait_for("an application", async || {
                let (_, _, body) = get(exporter.address(), "/api/v1/applications", &authorization).await;
                body.contains(&format!("shop-of-{tenant}"))
            })
            .await;
        }
        let [nginx, proxy, provider] = [free_address()?, free_address()?, free_address()?];
        let _provider = Running::start(
            Command::new(programs.join("mock-oidc"))
                .args([&provider.to_string(), "porthole", "secret"])
                .args(["acme", "globex", "strangers"]),
        );
        wait_for("the provider", async || tokio::net::TcpStream::connect(provider).await.is_ok()).await;
        let settings = example(
            "oauth2-proxy.cfg",
            &[
                ("https://login.example.com", format!("http://{provider}/oidc")),
                ("127.0.0.1:4180", proxy.to_string()),
                ("https://porthole.example.com", format!("http://{NAME}:{}", nginx.port())),
                ("cookie_secure = true", "cookie_secure = false".to_owned()),
            ],
        );
        std::fs::write(host.socket("oauth2-proxy.cfg"), settings)?;
        let _proxy = Running::start(
            Command::new(programs.join("oauth2-proxy"))
                .arg("--config")
                .arg(host.socket("oauth2-proxy.cfg"))
                .env("OAUTH2_PROXY_CLIENT_SECRET", "secret")
                .env("OAUTH2_PROXY_COOKIE_SECRET", COOKIE_SECRET),
        );
        let _nginx = start_nginx(&host, [nginx, proxy, exporter.address()], &tokens);
        for address in [proxy, nginx] {
            wait_for("a server", async || tokio::net::TcpStream::connect(address).await.is_ok()).await;
        }
        let browser = |name: &str| Browser { cookies: host.socket(&format!("{name}.cookies")), nginx };
        // In the order of the provider's users; each stays signed in.
        for (tenant, other) in [("acme", "globex"), ("globex", "acme")] {
            let browser = browser(tenant);
            for _ in 0..2 {
                let (status, body) = browser.open("/api/v1/applications").await;
                assert_eq!(status, 200, "{body}");
                assert!(body.contains(&format!("shop-of-{tenant}")) && !body.contains(other), "{body}");
            }
            let (_, viewer) = browser.open("/api/v1/viewer").await;
            let viewer: Value = serde_json::from_str(&viewer)?;
            assert_eq!(viewer["tenant"], tenant, "{viewer}");
        }
        let (status, body) = browser("strangers").open("/api/v1/applications").await;
        assert_eq!(status, 401, "a group without a token: {body}");
        assert!(!body.contains("shop-of"), "{body}");
        exporter.stop().await;
        Ok(())
    })
}
