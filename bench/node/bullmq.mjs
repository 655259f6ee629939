// BullMQ: addBulk, a worker with the concurrency that its documentation gives as
// the upper end for light jobs (300), finished jobs removed at once.

import { Queue, Worker } from "bullmq";
import { run } from "./load.mjs";

await run(async (address) => {
  const [host, port] = address.split(":");
  const connection = { host, port: Number(port), maxRetriesPerRequest: null };
  const queue = new Queue("bench", { connection, defaultJobOptions: { removeOnComplete: true, removeOnFail: true } });
  await queue.waitUntilReady();
  return {
    enqueue: (payloads) =>
      payloads.length === 1
        ? queue.add("bench", payloads[0])
        : queue.addBulk(payloads.map((data) => ({ name: "bench", data }))),
    async work(handle) {
      const worker = new Worker("bench", async (job) => handle(job.data), { connection, concurrency: 300 });
      await worker.waitUntilReady();
      return () => worker.close();
    },
    close: () => queue.close(),
  };
});
