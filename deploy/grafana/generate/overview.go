package main

var overview = board{
	file: "overview", title: "overview", about: "Is work late, and where? Start here.",
	rows: []row{
		{"Now", []panel{
			number("Servers", plain, "Servers that answer scrapes.", 0, `sum(errand_build_info{job=~"$job"})`),
			number("Oldest claimable job", seconds, "How long a job has waited that a live worker could take now.", 300,
				`max(errand_queue_oldest_claimable_seconds{job=~"$job"})`),
			number("Ready jobs", plain, "Jobs that wait to be taken.", 0,
				`sum(max by (job, queue) (errand_queue_jobs{job=~"$job",state="ready"}))`),
			number("Jobs without a worker", plain, "Ready jobs of kinds that no live worker takes.", 1,
				`sum(max by (job, queue, kind) (errand_queue_jobs_without_worker{job=~"$job"})) or vector(0)`),
			number("Dead letters", plain, "Jobs that gave up, for somebody to look at.", 1,
				`sum(max by (job, queue) (errand_queue_jobs{job=~"$job",state="dead"}))`),
			number("Paused queues", plain, "", 1, `sum(max by (job, queue) (errand_queue_paused{job=~"$job"}))`),
		}},
		{"Objective: 99 % of attempts begin within a minute", []panel{
			graph("Late starts", share, "Share of attempts that began more than a minute after they could; recorded by deploy/prometheus.",
				target{`job_queue:errand_job_wait_late:ratio_rate5m{job=~"$job"}`, "{{queue}} 5m"},
				target{`job_queue:errand_job_wait_late:ratio_rate1h{job=~"$job"}`, "{{queue}} 1h"}),
			graph("Wait before an attempt", seconds, "From the time a job could be taken to its lease.",
				target{quantile("0.5", "errand_job_wait_seconds", "queue"), "{{queue}} p50"},
				target{quantile("0.99", "errand_job_wait_seconds", "queue"), "{{queue}} p99"}),
			graph("End to end", seconds, "From enqueue to success, with delays that were asked for.",
				target{quantile("0.5", "errand_job_end_to_end_seconds", "queue"), "{{queue}} p50"},
				target{quantile("0.99", "errand_job_end_to_end_seconds", "queue"), "{{queue}} p99"}),
		}},
		{"Work", []panel{
			graph("Jobs in and out", perSecond, "",
				target{`sum(rate(errand_jobs_enqueued_total{job=~"$job"}[$__rate_interval]))`, "enqueued"},
				target{`sum by (outcome) (rate(errand_jobs_finished_total{job=~"$job"}[$__rate_interval]))`, "{{outcome}}"}),
			graph("Oldest claimable job", seconds, "By queue.",
				target{`max by (queue) (errand_queue_oldest_claimable_seconds{job=~"$job"})`, "{{queue}}"}),
			graph("Backlog", seconds, "Work that is ready, in seconds of one slot.",
				target{`avg by (queue) (errand_queue_backlog_worker_seconds{job=~"$job"})`, "{{queue}}"}),
			graph("Ready jobs", plain, "By queue.",
				target{`max by (queue) (errand_queue_jobs{job=~"$job",state="ready"})`, "{{queue}}"}),
			graph("Attempts that fail", share, "Failed, discarded and crashed, of all that ran.",
				target{`sum by (queue) (rate(errand_attempts_ended_total{job=~"$job",outcome=~"failed|discarded|crashed"}[$__rate_interval])) / sum by (queue) (rate(errand_attempts_ended_total{job=~"$job",outcome=~"succeeded|failed|discarded|crashed"}[$__rate_interval]))`, "{{queue}}"}),
			graph("Canary round trip", seconds, "Longest of nine in ten; empty where no canary is sent.",
				target{quantile("0.9", "errand_canary_round_trip_seconds", "queue"), "{{queue}}"}),
		}},
	},
}

// quantile is that of a histogram by a label.
func quantile(q, metric, by string) string {
	return `histogram_quantile(` + q + `, sum by (le, ` + by + `) (rate(` + metric + `_bucket{job=~"$job"}[$__rate_interval])))`
}
