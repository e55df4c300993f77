"""`livetag doctor`: what is wrong with a deployment, what to do, and what is safe to put right by itself. Needs no host."""
