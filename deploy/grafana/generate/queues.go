package main

// of selects what the reader chose.
const (
	ofQueue = `{job=~"$job",queue=~"$queue"}`
	ofKind  = `{job=~"$job",queue=~"$queue",kind=~"$kind"}`
)

var queueAndKind = board{
	file: "queue-kind", title: "queue and kind", about: "What a queue holds, and what its kinds do.", queue: true, kind: true,
	rows: []row{
		{"Queue", []panel{
			graph("Jobs by state", plain, "Kept now: succeeded and cancelled ones for the time of the archive.",
				target{`sum by (state) (max by (job, queue, state) (errand_queue_jobs` + ofQueue + `))`, "{{state}}"}),
			graph("Oldest job", seconds, "Ready: whoever could take it. Claimable: the queue is not paused, and a live worker knows the kind.",
				target{`max by (queue) (errand_queue_oldest_ready_seconds` + ofQueue + `)`, "{{queue}} ready"},
				target{`max by (queue) (errand_queue_oldest_claimable_seconds` + ofQueue + `)`, "{{queue}} claimable"}),
			graph("Slots", plain, "Of workers that take jobs of the queue; one of several queues counts in each.",
				target{`max by (queue, state) (errand_queue_slots` + ofQueue + `)`, "{{queue}} {{state}}"}),
			graph("Time to clear", seconds, "Backlog divided by the slots of the queue: about how long it takes to catch up.",
				target{`avg by (queue) (errand_queue_backlog_worker_seconds` + ofQueue + `) / (sum by (queue) (max by (queue, state) (errand_queue_slots` + ofQueue + `)) > 0)`, "{{queue}}"}),
			graph("Since the last lease", seconds, "Grows while nothing is given out, also when nothing waits.",
				target{`time() - max by (queue) (errand_queue_last_lease_timestamp_seconds` + ofQueue + `)`, "{{queue}}"}),
			graph("Paused", plain, "1 while the queue is paused.",
				target{`max by (queue) (errand_queue_paused` + ofQueue + `)`, "{{queue}}"}),
		}},
		{"Kind", []panel{
			graph("Enqueued", perSecond, "", target{`sum by (kind) (rate(errand_jobs_enqueued_total` + ofKind + `[$__rate_interval]))`, "{{kind}}"}),
			graph("Leased", perSecond, "", target{`sum by (kind) (rate(errand_jobs_leased_total` + ofKind + `[$__rate_interval]))`, "{{kind}}"}),
			graph("Finished", perSecond, "", target{`sum by (kind, outcome) (rate(errand_jobs_finished_total` + ofKind + `[$__rate_interval]))`, "{{kind}} {{outcome}}"}),
			graph("Attempts by outcome", perSecond, "", target{`sum by (kind, outcome) (rate(errand_attempts_ended_total` + ofKind + `[$__rate_interval]))`, "{{kind}} {{outcome}}"}),
			graph("Run time", seconds, "Attempts that succeeded, failed or were discarded.",
				target{kindQuantile("0.5", "errand_job_run_seconds"), "{{kind}} p50"},
				target{kindQuantile("0.99", "errand_job_run_seconds"), "{{kind}} p99"}),
			graph("Wait before an attempt", seconds, "",
				target{kindQuantile("0.5", "errand_job_wait_seconds"), "{{kind}} p50"},
				target{kindQuantile("0.99", "errand_job_wait_seconds"), "{{kind}} p99"}),
			graph("Busy slots by kind", plain, "Seconds of work done a second: how many slots the kind fills.",
				target{`sum by (kind) (rate(errand_job_run_seconds_sum` + ofKind + `[$__rate_interval]))`, "{{kind}}"}),
			graph("Without a worker", plain, "Ready jobs of kinds that no live worker takes. Empty is well.",
				target{`max by (queue, kind) (errand_queue_jobs_without_worker` + ofKind + `)`, "{{queue}} {{kind}}"}),
		}},
	},
}

func kindQuantile(q, metric string) string {
	return `histogram_quantile(` + q + `, sum by (le, kind) (rate(` + metric + `_bucket` + ofKind + `[$__rate_interval])))`
}
