"""What a person sees: the plan, progress, the end-of-run summary and the report page."""
