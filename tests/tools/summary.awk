# Adds up the "test result:" lines of a cargo test run and the tests that said they were skipped; the last line
# is "N passed, N failed, N skipped". Ends with 1 if a test failed, or if none ran.
/test result: / {
  for (i = 1; i < NF; i++) {
    if ($(i + 1) ~ /^passed/) passed += $i
    if ($(i + 1) ~ /^failed/) failed += $i
    if ($(i + 1) ~ /^ignored/) skipped += $i
  }
}
/SKIPPED [A-Za-z0-9_:]+: / {
  sub(/^.*SKIPPED /, "")
  reasons[++count] = $0
}
END {
  for (i = 1; i <= count; i++) print "skipped: " reasons[i]
  # A test that finds it cannot run here returns, which its runner counts as passed.
  printf "%d passed, %d failed, %d skipped\n", passed - count, failed, skipped + count
  exit (failed > 0 || passed - count <= 0)
}
