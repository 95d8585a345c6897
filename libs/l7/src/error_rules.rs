//! The error class of a status: the table in `docs/protocols.md` and the parsers agree.

use crate::{ErrorClass, amqp, dns, http1, http2, kafka, memcached, mongodb, mysql, nats, postgres, redis};

const DOCUMENT: &str = include_str!("../../../docs/protocols.md");

/// The class of a status, as the parser of the protocol in the row's first column has it.
fn class(protocol: &str, status: &str) -> ErrorClass {
    let code = || status.parse::<u16>().unwrap_or_else(|_| panic!("{protocol}: {status} is no number"));
    match protocol {
        "HTTP" => http1::error_class(code()),
        "gRPC" => http2::grpc_error(code()),
        "MySQL" => mysql::class(code()),
        "PostgreSQL" => {
            let state = format!("{status:0<5}");
            postgres::class(state.as_bytes().try_into().expect("five characters"))
        }
        "Redis" => redis::class(status),
        "Memcached" => memcached::error_class(status.as_bytes()),
        "Kafka" => kafka::error_class(status).unwrap_or_else(|| panic!("{protocol} has no {status}")),
        "AMQP" => amqp::error_class(code()),
        "MongoDB" => mongodb::class(u32::from(code())),
        "NATS" => nats::status_class(code()),
        "DNS" => dns::class(code()),
        other => panic!("no rule for {other}"),
    }
}

#[test]
fn statuses_are_errors_of_the_side_that_the_documentation_names() {
    let (_, section) = DOCUMENT.split_once("## Error classes").expect("the section");
    let section = section.split("\n## ").next().expect("a section");
    let mut rows = 0;
    for row in section.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [protocol, of_client, of_server, none, _source] = cells[..] else { panic!("five cells: {row}") };
        for (statuses, expected) in
            [(of_client, ErrorClass::Client), (of_server, ErrorClass::Server), (none, ErrorClass::None)]
        {
            for status in statuses.split('`').skip(1).step_by(2) {
                assert_eq!(class(protocol, status), expected, "{protocol} {status}");
            }
        }
        rows += 1;
    }
    assert_eq!(rows, 11);
}
