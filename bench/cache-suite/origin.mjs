// The suite's own origin server, on a free port of loopback: prints its address when it listens.

import http from 'node:http'

import handleConfig from 'http-cache-tests/server/handle-config.mjs'
import handleState from 'http-cache-tests/server/handle-state.mjs'
import handleTest from 'http-cache-tests/server/handle-test.mjs'

const handlers = { config: handleConfig, state: handleState, test: handleTest }

const server = http.createServer((request, response) => {
  const [, kind, ...rest] = new URL(request.url, 'http://localhost/').pathname.split('/')
  const handle = handlers[kind]
  if (handle === undefined) {
    response.writeHead(404).end()
    return
  }
  handle(rest, request, response)
})
server.listen(0, '127.0.0.1', () => {
  const { address, port } = server.address()
  process.stdout.write(`listening on ${address}:${port}\n`)
})
