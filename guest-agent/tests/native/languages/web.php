<?php
// As a router of the built-in server it answers; on the command line, `client PORT` asks, with the HTTP wrapper.
if (PHP_SAPI === "cli-server") {
    http_response_code($_SERVER["REQUEST_URI"] === "/php-ok" ? 200 : 404);
    echo "hello\n";
    return;
}
$quiet = stream_context_create(["http" => ["ignore_errors" => true]]);
foreach ([...array_fill(0, 7, "/php-ok"), ...array_fill(0, 3, "/php-missing")] as $path) {
    file_get_contents("http://127.0.0.1:{$argv[2]}$path", false, $quiet);
}
