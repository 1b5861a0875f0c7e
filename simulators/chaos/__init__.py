"""Two replicas under load while they, the broker and PostgreSQL are killed and FCM misbehaves."""
