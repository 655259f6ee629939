// graphile-worker, set as the performance page of its documentation sets it: 24
// jobs at a time over 25 connections, a local queue of 500, completions batched
// without a delay.

import { makeWorkerUtils, run as runWorker, Logger, WorkerPreset } from "graphile-worker";
import pg from "pg";
import { run } from "./load.mjs";

const logger = new Logger(() => () => {});

await run(async (address, plan) => {
  const pool = new pg.Pool({ connectionString: address, max: plan.producers });
  const utils = await makeWorkerUtils({ pgPool: pool, preset: { extends: [WorkerPreset] }, logger });
  await utils.migrate();
  return {
    enqueue: (payloads) =>
      payloads.length === 1
        ? utils.addJob("bench", payloads[0])
        : utils.addJobs(payloads.map((payload) => ({ identifier: "bench", payload }))),
    async work(handle) {
      const runner = await runWorker({
        preset: {
          extends: [WorkerPreset],
          worker: {
            connectionString: address,
            concurrentJobs: 24,
            maxPoolSize: 25,
            localQueue: { size: 500 },
            completeJobBatchDelay: 0,
            failJobBatchDelay: 0,
          },
        },
        logger,
        noHandleSignals: true,
        taskList: { bench: async (payload) => handle(payload) },
      });
      return async () => {
        await runner.stop();
        const left = await pool.query("SELECT count(*)::int AS n FROM graphile_worker.jobs WHERE locked_at IS NOT NULL");
        if (left.rows[0].n > 0) throw new Error(`${left.rows[0].n} jobs are not completed`);
      };
    },
    async close() {
      await utils.release();
      await pool.end();
    },
  };
});
