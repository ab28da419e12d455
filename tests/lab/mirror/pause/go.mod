module kdiy/lab/pause

go 1.26.0
