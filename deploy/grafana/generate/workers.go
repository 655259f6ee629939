package main

var workers = board{
	file: "workers", title: "workers and deploys", about: "Who works, who died, and what a deploy did.",
	rows: []row{
		{"Sessions", []panel{
			number("Live workers", plain, "", 0, `max(errand_sessions{job=~"$job",state="live"})`),
			number("Free slots", plain, "", 0, `max(errand_worker_slots{job=~"$job",state="free"})`),
			number("Brake", plain, "1 while most workers are silent at once.", 1, `max(errand_brake_engaged{job=~"$job"})`),
			graph("Sessions by state", plain, "A deploy shows as draining and new live ones; a death as dead.",
				target{`max by (state) (errand_sessions{job=~"$job"})`, "{{state}}"}),
			graph("Slots", plain, "", target{`max by (state) (errand_worker_slots{job=~"$job"})`, "{{state}}"}),
			graph("Utilisation", share, "Busy slots of all.",
				target{`max by (job) (errand_worker_slots{job=~"$job",state="busy"}) / (sum by (job) (max by (job, state) (errand_worker_slots{job=~"$job"})) > 0)`, "{{job}}"}),
		}},
		{"Faults", []panel{
			graph("Jobs taken back", perSecond, "Of dead sessions, which charges a crash, and of drained ones, which is free.",
				target{`sum by (sessions) (rate(errand_jobs_rescued_total{job=~"$job"}[$__rate_interval]))`, "{{sessions}}"}),
			graph("Crashes and releases", perSecond, "",
				target{`sum by (queue, outcome) (rate(errand_attempts_ended_total{job=~"$job",outcome=~"crashed|released"}[$__rate_interval]))`, "{{queue}} {{outcome}}"}),
			graph("Stale results", perSecond, "Results for jobs that had gone to another holder.",
				target{`sum(rate(errand_stale_results_total{job=~"$job"}[$__rate_interval]))`, "refused"}),
		}},
		{"Worker processes (package errandprom; empty where they are not scraped)", []panel{
			graph("Busy slots", plain, "By process.", target{`errand_worker_busy_slots`, "{{instance}}"}),
			graph("Handlers by outcome", perSecond, "", target{`sum by (outcome) (rate(errand_worker_jobs_ended_total[$__rate_interval]))`, "{{outcome}}"}),
			graph("Run time, 99 of 100", seconds, "By process.",
				target{`histogram_quantile(0.99, sum by (le, instance) (rate(errand_worker_job_run_seconds_bucket[$__rate_interval])))`, "{{instance}}"}),
			graph("Overruns and lost sessions", plain, "Handlers that did not heed the end of their context; sessions beyond the first.",
				target{`sum by (instance) (errand_worker_overruns_total)`, "{{instance}} overruns"},
				target{`sum by (instance) (errand_worker_sessions_total - 1)`, "{{instance}} sessions lost"}),
		}},
	},
}
