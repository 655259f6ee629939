// The load of bench/ for peers that run on Node: the same scenarios, clocks and
// payloads as internal/bench has, and the same JSON. Called with one argument,
// {"address","scenario","plan":{"jobs","payload","batch","producers","rate","seconds"}}.
//
// A system has enqueue(payloads), work(handle) -> stop, and close; stop returns
// when every success is recorded durably.

import { performance } from "node:perf_hooks";

const epoch = performance.now();
const now = () => performance.now() - epoch; // milliseconds

function payload(size, at) {
  const p = { at: Math.round(at * 1000), f: "" }; // microseconds
  p.f = "x".repeat(Math.max(0, size - JSON.stringify(p).length));
  return p;
}

function payloads(n, size, at) {
  return Array.from({ length: n }, () => payload(size, at));
}

function percentiles(samples) {
  if (samples.length === 0) return {};
  const sorted = Float64Array.from(samples).sort();
  const at = (q) => sorted[Math.min(sorted.length - 1, Math.ceil(q * sorted.length) - 1)];
  return { p50_ms: at(0.5), p90_ms: at(0.9), p99_ms: at(0.99), p999_ms: at(0.999), max_ms: at(1) };
}

function clock() {
  const began = now();
  const cpu = process.cpuUsage();
  return (jobs) => {
    const seconds = (now() - began) / 1000;
    const spent = process.cpuUsage(cpu);
    return { jobs, seconds, jobs_per_second: jobs / seconds, cpu_us_per_job: (spent.user + spent.system) / jobs };
  };
}

// fill enqueues n jobs in batches from all producers and returns how long the calls took.
async function fill(sys, plan, n, batch) {
  const calls = [];
  let next = 0;
  const producer = async () => {
    while (next < n) {
      const size = Math.min(batch, n - next);
      next += size;
      const began = now();
      await sys.enqueue(payloads(size, plan.payload, 0));
      calls.push(now() - began);
    }
  };
  await Promise.all(Array.from({ length: plan.producers }, producer));
  return calls;
}

// crew starts workers; until(n) resolves when n jobs were handled.
async function crew(sys, each) {
  let handled = 0;
  let wanted = Infinity;
  let reached = () => {};
  const stop = await sys.work((p) => {
    each?.(p);
    if (++handled >= wanted) reached();
  });
  const until = (n) =>
    new Promise((resolve) => {
      wanted = n;
      reached = resolve;
      if (handled >= n) resolve();
    });
  return { stop, until, handled: () => handled };
}

async function produce(sys, plan, batch) {
  const took = clock();
  const calls = await fill(sys, plan, plan.jobs, batch);
  return { ...took(plan.jobs), ...percentiles(calls) };
}

async function drain(sys, plan) {
  await fill(sys, plan, plan.jobs, plan.batch);
  const took = clock();
  const workers = await crew(sys);
  await workers.until(plan.jobs);
  await workers.stop();
  return took(workers.handled());
}

// until resolves at a moment. Timers are whole milliseconds, so the last one is
// spent looking.
async function until(due) {
  const left = due - now();
  if (left > 2) await new Promise((r) => setTimeout(r, Math.floor(left - 1)));
  while (now() < due) await new Promise((r) => setImmediate(r));
}

// latency makes calls on a schedule that waits for nobody.
async function latency(sys, plan) {
  const waits = [];
  const workers = await crew(sys, (p) => waits.push(now() - p.at / 1000));
  const total = Math.floor(plan.rate * plan.seconds);
  const took = clock();
  const began = now();
  const calls = [];
  for (let i = 0; i < total; i++) {
    const due = began + (i * 1000) / plan.rate;
    await until(due);
    calls.push(sys.enqueue([payload(plan.payload, due)]));
  }
  await Promise.all(calls);
  await workers.until(total);
  const result = took(total);
  await workers.stop();
  return { ...result, ...percentiles(waits) };
}

const scenarios = {
  bulk: (sys, plan) => produce(sys, plan, plan.batch),
  single: (sys, plan) => produce(sys, plan, 1),
  drain,
  latency,
};

export async function run(open) {
  const { address, scenario, plan } = JSON.parse(process.argv[2]);
  const sys = await open(address, plan);
  const result = await scenarios[scenario](sys, plan);
  await sys.close();
  process.stdout.write(JSON.stringify({ scenarios: [{ name: scenario, ...result }] }) + "\n");
}
