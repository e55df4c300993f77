"""What Git runs at a push: pre-receive judges it, proc-receive writes its tags and waits for the host."""
