"""Jobs of a cluster, through submitit: what a job runs (`task`), and how jobs are submitted (`submitting`)."""
