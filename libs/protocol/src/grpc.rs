//! gRPC's status codes (grpc/grpc, `doc/statuscodes.md`).

/// Names of the status codes, by number.
pub const STATUS_NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The name of a status written as a decimal number; `None` for what is no status code of gRPC.
pub fn status_name(code: &str) -> Option<&'static str> {
    // "+1" and "01" parse as numbers and are none in trailers.
    if code.len() > 2
        || !code.bytes().all(|byte| byte.is_ascii_digit())
        || (code.len() == 2 && code.starts_with('0'))
    {
        return None;
    }
    STATUS_NAMES.get(code.parse::<usize>().ok()?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_name() {
        for (code, name) in
            [("0", "OK"), ("1", "CANCELLED"), ("4", "DEADLINE_EXCEEDED"), ("16", "UNAUTHENTICATED")]
        {
            assert_eq!(status_name(code), Some(name));
        }
        for code in ["", "17", "-1", "+1", "01", "OK", "4294967296"] {
            assert_eq!(status_name(code), None, "{code}");
        }
    }
}
