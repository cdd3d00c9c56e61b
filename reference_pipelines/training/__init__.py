"""The loop that both pipelines share: steps, schedules, extraction, run folders."""
