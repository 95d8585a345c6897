//! Recordings of real servers and clients.

use crate::captured::assert_counts;

#[test]
fn every_librarys_calls_of_grpc_are_found() {
    for ends in ["core", "go", "java", "java-server", "js", "tonic"] {
        assert_counts(
            &format!("grpc-{ends}"),
            &[
                "14 POST /shop.Cart/Add 0 None",
                "2 POST /shop.Cart/Missing 5 Client",
                "2 POST /shop.Cart/List 0 None",
                "2 POST other 12 Server",
            ],
        );
    }
}

#[test]
fn every_librarys_requests_of_http2_are_found() {
    assert_counts(
        "http2-node",
        &[
            "12 GET / 200 None",
            "2 POST /items 200 None",
            "2 GET /missing 404 Client",
            "2 GET /down 503 Server",
            "2 GET /large 200 None",
        ],
    );
    assert_counts(
        "http2-nghttp2",
        &[
            "10 GET / 200 None",
            "4 GET /items 200 None",
            "4 GET /missing 404 Client",
            "4 GET /down 503 Server",
            "4 GET /large 200 None",
        ],
    );
}
