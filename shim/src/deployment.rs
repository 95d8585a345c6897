//! What made a pod, by the pod's name.

/// Letters and digits of Kubernetes' generated suffixes (`k8s.io/apimachinery/pkg/util/rand`).
const GENERATED: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The name of what made the pod: without the suffixes of Deployments (`-<hash>-<5>`), `DaemonSets` and Jobs (`-<5>`),
/// `CronJobs` (`-<minutes>-<5>`) and `StatefulSets` (`-<ordinal>`).
pub fn without_generated_suffix(pod: &str) -> &str {
    let generated = |part: &str| part.bytes().all(|b| GENERATED.contains(&b));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let Some((owner, last)) = pod.rsplit_once('-').filter(|(owner, _)| !owner.is_empty()) else { return pod };
    if last.len() == 5 && generated(last) {
        return match owner.rsplit_once('-') {
            Some((name, hash))
                if !name.is_empty()
                    && ((6..=10).contains(&hash.len()) && generated(hash)
                        || (8..=10).contains(&hash.len()) && digits(hash)) =>
            {
                name
            }
            _ => owner,
        };
    }
    if (1..=5).contains(&last.len()) && digits(last) { owner } else { pod }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_suffixes_are_cut_and_names_left_alone() {
        for (pod, name) in [
            ("shop-5d4b8c7f6b-x2vqz", "shop"),
            ("log-collector-x2vqz", "log-collector"),
            ("report-28391040-x2vqz", "report"),
            ("db-0", "db"),
            ("shop", "shop"),
            ("my-redis", "my-redis"),
            ("web-nginx", "web-nginx"),
            ("-x2vqz", "-x2vqz"),
            ("kv-store-v2", "kv-store-v2"),
        ] {
            assert_eq!(without_generated_suffix(pod), name, "{pod}");
        }
    }
}
