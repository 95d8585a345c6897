# `server` prints its port and serves; `client PORT` asks. Server: webrick; client: net/http.
require "net/http"

if ARGV[0] == "server"
  require "webrick"
  quiet = WEBrick::Log.new(File::NULL)
  server = WEBrick::HTTPServer.new(BindAddress: "127.0.0.1", Port: 0, Logger: quiet, AccessLog: [])
  server.mount_proc("/ruby-ok") { |_, response| response.body = "hello\n" }
  puts server.listeners[0].addr[1]
  $stdout.flush
  server.start
end
Net::HTTP.start("127.0.0.1", ARGV[1].to_i) do |http|
  (["/ruby-ok"] * 7 + ["/ruby-missing"] * 3).each { |path| http.get(path) }
end
