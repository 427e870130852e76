"""Grid'5000: reservations, calendar, Kadeploy3 and what its usage policy allows."""
