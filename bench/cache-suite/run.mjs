// Runs the suite against the cache at the address given, and prints every test with its result.

import fetch from 'node-fetch'
import { getResults, runTests } from 'http-cache-tests/client/runner.mjs'
import suites from 'http-cache-tests/tests/index.mjs'

const [base, chosen] = process.argv.slice(2)
const all = suites.flatMap(({ id, tests }) => tests.map(test => ({ ...test, suite: id })))
const wanted = all.filter(test => !test.browser_only && (chosen === undefined || test.id === chosen))
if (chosen !== undefined) wanted.forEach(test => { test.dump = true })

// Most of a test is pauses: many of them at once, and fewer than a gateway lets through to a service.
await runTests([{ tests: wanted }], fetch, false, base, 200)
const results = getResults()
const found = wanted.map(({ id, suite, kind = 'required', name, depends_on = [] }) => {
  return { id, suite, kind, name, depends_on, result: results[id] }
})
console.log(JSON.stringify(found))
