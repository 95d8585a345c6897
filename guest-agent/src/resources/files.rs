//! The kernel's forms of numbers in files of control groups and of procfs.

/// A number alone; none for `max`, which is the absence of a limit.
pub fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The number behind a name, where each line has one of each (`cpu.stat`, `memory.stat`, `memory.events`).
pub fn keyed(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| number(line.strip_prefix(name)?.strip_prefix(' ')?))
}

/// The sum of all numbers behind `name=`, whatever device a line is of (`io.stat`). None where no line has one.
pub fn sum_of(text: &str, name: &str) -> Option<u64> {
    let numbers =
        text.split_whitespace().filter_map(|word| number(word.strip_prefix(name)?.strip_prefix('=')?));
    numbers.reduce(u64::saturating_add)
}

/// Time of waiting, nanoseconds, from the line that begins with `some` or `full` of a pressure file (`Documentation/accounting/psi.rst`).
pub fn pressure(text: &str, line: &str) -> Option<u64> {
    let line = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '))?;
    let microseconds = line.split(' ').find_map(|word| number(word.strip_prefix("total=")?))?;
    Some(microseconds.saturating_mul(1_000))
}

/// A number of `/proc/net/netstat` or `/proc/net/snmp`: of two lines with the same beginning the first has the names, the second the
/// numbers.
pub fn of_protocol(text: &str, protocol: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(':'));
    let at = lines.next()?.split_whitespace().position(|found| found == name)?;
    number(lines.next()?.split_whitespace().nth(at)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_whole_names() {
        let text = "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 0\n";
        assert_eq!(keyed(text, "user_usec"), Some(20));
        assert_eq!(keyed(text, "nr_periods"), Some(0));
        assert_eq!(keyed(text, "user"), None);
        assert_eq!((number("12\n"), number("max\n"), number("-1"), number("")), (Some(12), None, None, None));
    }

    #[test]
    fn devices_are_added_up() {
        let text = "254:0 rbytes=4096 wbytes=1 rios=1 wios=2 dbytes=0 dios=0\n254:16 rbytes=1 wbytes=1 rios=1 wios=1\n";
        assert_eq!((sum_of(text, "rbytes"), sum_of(text, "wios")), (Some(4097), Some(3)));
        assert_eq!(sum_of("", "rbytes"), None);
        assert_eq!(sum_of("254:0 rbytes=18446744073709551615\n254:1 rbytes=2", "rbytes"), Some(u64::MAX));
    }

    #[test]
    fn pressure_is_in_nanoseconds() {
        let text = "some avg10=0.00 avg60=0.00 avg300=0.00 total=29\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!((pressure(text, "some"), pressure(text, "full")), (Some(29_000), Some(7_000)));
        assert_eq!(pressure("some avg10=0.00\n", "some"), None);
    }

    #[test]
    fn numbers_of_protocols_are_below_their_names() {
        let text = "TcpExt: SyncookiesSent ListenOverflows\nTcpExt: 1 7\nIpExt: InOctets\nIpExt: 5\n";
        assert_eq!(of_protocol(text, "TcpExt", "ListenOverflows"), Some(7));
        assert_eq!(of_protocol(text, "IpExt", "InOctets"), Some(5));
        assert_eq!(of_protocol(text, "Tcp", "InOctets"), None);
        assert_eq!(of_protocol("TcpExt: A B\nTcpExt: 1\n", "TcpExt", "B"), None);
    }
}
