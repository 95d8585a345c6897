//! The APIs, and as much of their messages as is looked at (Apache Kafka: `clients/src/main/resources/common/message`,
//! releases 0.9 to 4.1).

/// One API.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) key: i16,
    pub(super) name: &'static str,
    /// The latest version that the layouts describe.
    pub(super) latest: i16,
    /// The first version with compact lengths and tagged fields.
    pub(super) flexible: i16,
    /// Layouts of the bodies, as `layout` reads them.
    pub(super) request: &'static str,
    pub(super) response: &'static str,
}

impl Api {
    pub(super) fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible
    }
}

pub(super) const PRODUCE: i16 = 0;
pub(super) const FETCH: i16 = 1;
pub(super) const METADATA: i16 = 3;
pub(super) const JOIN_GROUP: i16 = 11;
pub(super) const SYNC_GROUP: i16 = 14;
pub(super) const SASL_HANDSHAKE: i16 = 17;
pub(super) const API_VERSIONS: i16 = 18;

const NEVER: i16 = i16::MAX;

const fn api(
    key: i16,
    name: &'static str,
    latest: i16,
    flexible: i16,
    request: &'static str,
    response: &'static str,
) -> Api {
    Api { key, name, latest, flexible, request, response }
}

/// The API of this key.
pub(super) fn of(key: i16) -> Option<&'static Api> {
    APIS.get(usize::try_from(key).ok()?)
}

/// By key, without a gap.
#[rustfmt::skip]
const APIS: &[Api] = &[
    api(0, "Produce", 13, 9, "3+n a w [ 0-12:t 13+U [ w r ] ]", "[ 0-12:t 13+U [ w e q 2+q 5+q 8+[ w s ] 8+s ] ] 1+w"),
    api(1, "Fetch", 18, 12, "0-14:w m x 3+w 4+b 7+w 7+k [ 13+U 0-12:t [ w 9+w q 12+w 5+q w ] ] 7+[ 13+u 7-12:s W ] 11+s", "1+w 7+e 7+w [ 13+U 0-12:t [ w e q 4+q 5+q 4+[ q q ] 11+w r ] ]"),
    api(2, "ListOffsets", 11, 6, "w 2+b [ t [ w 4+w q 0-0:w ] ] 10+w", "2+w [ t [ w e 1+q 1+q 4+w 0-0:Q ] ]"),
    api(3, "Metadata", 13, 9, "[ 10+U t ] 4+b 8-10:b 8+b", "3+w [ w s w 1+s ] 2+s 1+w [ e t 10+U 1+b [ h w w 7+w W W 5+W ] 8+w ] 8-10:w 13+e"),
    api(4, "LeaderAndIsr", 7, 4, ".", "."),
    api(5, "StopReplica", 4, 2, ".", "."),
    api(6, "UpdateMetadata", 8, 6, ".", "."),
    api(7, "ControlledShutdown", 3, 3, ".", "."),
    api(8, "OffsetCommit", 10, 8, "s 1+w 1+s 7+s 2-4:q [ 0-9:t 10+U [ w q 6+w 1-1:q s ] ]", "3+w [ 0-9:t 10+U [ w e ] ]"),
    api(9, "OffsetFetch", 10, 6, "8+[ s 9+s 9+w [ 0-9:t 10+U W ] ] 0-7:s 0-7:[ t W ] 7+b", "3+w 8+[ s [ 0-9:t 10+U [ w q w s e ] ] e ] 0-7:[ t [ w q 5+w s e ] ] 2-7:e"),
    api(10, "FindCoordinator", 6, 3, "0-3:s 1+b 4+S", "1+w 4+[ s w s w e s ] 0-3:e 1-3:s 0-3:w 0-3:s 0-3:w"),
    api(11, "JoinGroup", 9, 6, "s w 1+w s 5+s s [ s B ] 8+s", "2+w e w 7+s s s 9+b s [ s 5+s B ]"),
    api(12, "Heartbeat", 4, 4, "s w s 3+s", "1+w e"),
    api(13, "LeaveGroup", 5, 4, "s 3+[ s s 5+s ] 0-2:s", "1+w e 3+[ s s e ]"),
    api(14, "SyncGroup", 5, 4, "s w s 3+s 5+s 5+s [ s B ]", "1+w e 5+s 5+s B"),
    api(15, "DescribeGroups", 6, 5, "S 3+b", "1+w [ e . ]"),
    api(16, "ListGroups", 5, 3, "4+S 5+S", "1+w e ."),
    api(17, "SaslHandshake", 1, NEVER, "s", "e S"),
    api(18, "ApiVersions", 4, 3, "3+s 3+s", "e [ h h h ] 1+w"),
    api(19, "CreateTopics", 7, 5, "[ t w h [ w W ] [ s s ] ] w 1+b", "2+w [ t 7+U e 1+s 5+w 5+h 5+[ s s b b b ] ]"),
    api(20, "DeleteTopics", 6, 4, "6+[ t U ] 0-5:T w", "1+w [ t 6+U e 5+s ]"),
    api(21, "DeleteRecords", 2, 2, "[ t [ w q ] ] w", "w [ t [ w q e ] ]"),
    api(22, "InitProducerId", 6, 2, "s w 3+q 3+h 6+b 6+b", "w e q h ."),
    api(23, "OffsetForLeaderEpoch", 4, 4, "3+w [ t [ w 2+w w ] ]", "2+w [ t [ e w 1+w q ] ]"),
    api(24, "AddPartitionsToTxn", 5, 3, "4+[ s q h b [ t W ] ] 0-3:s 0-3:q 0-3:h 0-3:[ t W ]", "w 4+e 4+[ s [ t [ w e ] ] ] 0-3:[ t [ w e ] ]"),
    api(25, "AddOffsetsToTxn", 4, 3, "s q h s", "w e"),
    api(26, "EndTxn", 5, 3, "s q h b", "w e 5+q 5+h"),
    api(27, "WriteTxnMarkers", 1, 0, ".", "."),
    api(28, "TxnOffsetCommit", 5, 3, "s s q h 3+w 3+s 3+s [ t [ w q 2+w s ] ]", "w [ t [ w e ] ]"),
    api(29, "DescribeAcls", 3, 2, ".", "."),
    api(30, "CreateAcls", 3, 2, ".", "."),
    api(31, "DeleteAcls", 3, 2, ".", "."),
    api(32, "DescribeConfigs", 4, 4, "[ b s S ] 1+b 3+b", "w [ e . ]"),
    api(33, "AlterConfigs", 2, 2, ".", "."),
    api(34, "AlterReplicaLogDirs", 2, 2, ".", "."),
    api(35, "DescribeLogDirs", 4, 2, ".", "."),
    api(36, "SaslAuthenticate", 2, 2, "B", "e s B 1+q"),
    api(37, "CreatePartitions", 3, 2, "[ t w [ W ] ] w b", "w [ t e s ]"),
    api(38, "CreateDelegationToken", 3, 2, ".", "."),
    api(39, "RenewDelegationToken", 2, 2, ".", "."),
    api(40, "ExpireDelegationToken", 2, 2, ".", "."),
    api(41, "DescribeDelegationToken", 3, 2, ".", "."),
    api(42, "DeleteGroups", 2, 2, ".", "."),
    api(43, "ElectLeaders", 2, 2, ".", "."),
    api(44, "IncrementalAlterConfigs", 1, 1, ".", "."),
    api(45, "AlterPartitionReassignments", 0, 0, ".", "."),
    api(46, "ListPartitionReassignments", 0, 0, ".", "."),
    api(47, "OffsetDelete", 0, NEVER, "s [ t [ w ] ]", "e w [ t [ w e ] ]"),
    api(48, "DescribeClientQuotas", 1, 1, ".", "."),
    api(49, "AlterClientQuotas", 1, 1, ".", "."),
    api(50, "DescribeUserScramCredentials", 0, 0, ".", "."),
    api(51, "AlterUserScramCredentials", 0, 0, ".", "."),
    api(52, "Vote", 2, 0, ".", "."),
    api(53, "BeginQuorumEpoch", 1, 1, ".", "."),
    api(54, "EndQuorumEpoch", 1, 1, ".", "."),
    api(55, "DescribeQuorum", 2, 0, ".", "."),
    api(56, "AlterPartition", 3, 0, ".", "."),
    api(57, "UpdateFeatures", 2, 0, ".", "."),
    api(58, "Envelope", 0, 0, ".", "."),
    api(59, "FetchSnapshot", 1, 0, ".", "."),
    api(60, "DescribeCluster", 2, 0, ".", "w e ."),
    api(61, "DescribeProducers", 0, 0, ".", "."),
    api(62, "BrokerRegistration", 4, 0, ".", "."),
    api(63, "BrokerHeartbeat", 1, 0, ".", "."),
    api(64, "UnregisterBroker", 0, 0, ".", "."),
    api(65, "DescribeTransactions", 0, 0, ".", "."),
    api(66, "ListTransactions", 1, 0, ".", "."),
    api(67, "AllocateProducerIds", 0, 0, ".", "."),
    api(68, "ConsumerGroupHeartbeat", 1, 0, "s s w s s w S 1+s s [ u W ]", "w e s s w w ."),
    api(69, "ConsumerGroupDescribe", 1, 0, ".", "."),
    api(70, "ControllerRegistration", 0, 0, ".", "."),
    api(71, "GetTelemetrySubscriptions", 0, 0, ".", "."),
    api(72, "PushTelemetry", 0, 0, ".", "."),
    api(73, "AssignReplicasToDirs", 0, 0, ".", "."),
    api(74, "ListClientMetricsResources", 0, 0, ".", "."),
    api(75, "DescribeTopicPartitions", 0, 0, ".", "."),
    api(76, "ShareGroupHeartbeat", 0, 0, ".", "."),
    api(77, "ShareGroupDescribe", 0, 0, ".", "."),
    api(78, "ShareFetch", 0, 0, ".", "."),
    api(79, "ShareAcknowledge", 0, 0, ".", "."),
    api(80, "AddRaftVoter", 0, 0, ".", "."),
    api(81, "RemoveRaftVoter", 0, 0, ".", "."),
    api(82, "UpdateRaftVoter", 0, 0, ".", "."),
    api(83, "InitializeShareGroupState", 0, 0, ".", "."),
    api(84, "ReadShareGroupState", 0, 0, ".", "."),
    api(85, "WriteShareGroupState", 0, 0, ".", "."),
    api(86, "DeleteShareGroupState", 0, 0, ".", "."),
    api(87, "ReadShareGroupStateSummary", 0, 0, ".", "."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_keys() {
        for (index, api) in APIS.iter().enumerate() {
            assert_eq!(usize::try_from(api.key), Ok(index), "{}", api.name);
        }
    }
}
