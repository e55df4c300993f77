%% The Erlang side: reads a line, measures what it names, answers a line of JSON; all times are nanoseconds.
%% erl -noshell -pa DIR -run bench main DIR      (DIR/1/kv.beam and DIR/2/kv.beam are the two versions)
-module(bench).
-export([main/1, client/3]).
-define(SPAN_MS, 50).

main([Dir]) ->
    Code = [begin
                File = lists:concat([Dir, "/", V, "/kv.beam"]),
                {ok, Binary} = file:read_file(File),
                {V, File, Binary}
            end || V <- [1, 2]],
    load(lists:keyfind(1, 1, Code)),
    serve(Code).

serve(Code) ->
    case io:get_line("") of
        eof -> halt(0);
        Line ->
            answer(measure(string:lexemes(string:trim(Line), " "), Code)),
            serve(Code)
    end.

answer(Measured) ->
    Lists = [io_lib:format("\"~s\": [~s]", [Name, lists:join(", ", [number(X) || X <- Xs])]) || {Name, Xs} <- Measured],
    io:format("{~s}~n", [lists:join(", ", Lists)]).

number(X) when is_float(X) -> io_lib:format("~.1f", [X]);
number(X) -> integer_to_list(X).

measure(["state", Entries], Code) ->
    case whereis(kv) of
        undefined -> ok;
        Pid -> gen_server:stop(Pid)
    end,
    code:purge(kv),
    load(lists:keyfind(1, 1, Code)),
    {ok, New} = kv:start(list_to_integer(Entries)),
    garbage_collect(New),
    put(entries, list_to_integer(Entries)),
    [{"entries", [list_to_integer(Entries)]}];
measure(["ask", Count], _) ->
    [{"ask", [timed(fun() -> gen_server:call(kv, total) end) || _ <- lists:seq(1, list_to_integer(Count))]}];
measure(["send", Count, Times], _) ->
    [{"send", casts({add, 1}, list_to_integer(Count), list_to_integer(Times))}];
measure(["send5", Count, Times], _) ->
    [{"send", casts({add, <<"key">>, 1, 2, 3, 4}, list_to_integer(Count), list_to_integer(Times))}];
measure(["swaps", How, Load, Count], Code) ->
    Client = spawn_link(?MODULE, client, [self(), list_to_atom(Load), get(entries)]),
    timer:sleep(20),
    Each = [swap(list_to_atom(How), Client, Code) || _ <- lists:seq(1, list_to_integer(Count))],
    tell(Client, stop),
    [{Name, [proplists:get_value(Name, One) || One <- Each]} || Name <- ["pause", "gap", "whole", "quiet"]];
%% Each call of two seconds with an upgrade in their middle: when it was made, from the upgrade on, and how long it took.
measure(["picture", How], Code) ->
    Start = now_ns(),
    Self = self(),
    spawn_link(fun() -> Self ! {calls, picture(Start, 0, get_entries(Self), [])} end),
    receive {entries_of, Asker} -> Asker ! {entries, get(entries)} end,
    wait_until(Start + 1000000000),
    At = now_ns(),
    {_, _} = upgrade(list_to_atom(How), Code),
    code:purge(kv),
    receive {calls, Calls} -> ok end,
    [{"at", [T - At || {T, _} <- Calls]}, {"took", [Took || {_, Took} <- Calls]}].

get_entries(Owner) ->
    Owner ! {entries_of, self()},
    receive {entries, N} -> N end.

%% A thousand calls a second, each counted from the moment that it was due.
picture(Start, Number, Entries, Calls) ->
    Due = Start + Number * 1000000,
    case Number >= 2000 of
        true -> lists:reverse(Calls);
        false ->
            wait_until(Due),
            gen_server:call(kv, {get, Number rem max(Entries, 1)}, infinity),
            picture(Start, Number + 1, Entries, [{Due, now_ns() - Due} | Calls])
    end.

casts(Message, Count, Times) ->
    [timed(fun() -> cast_all(Message, Count), gen_server:call(kv, total, infinity) end) / Count
     || _ <- lists:seq(1, Times)].

cast_all(_, 0) -> ok;
cast_all(Message, N) -> gen_server:cast(kv, Message), cast_all(Message, N - 1).

%% One upgrade under load: its pause, the longest gap that the client saw around it, the longest until the old code is purged,
%% and one in as long a time without.
swap(How, Client, Code) ->
    tell(Client, reset),
    timer:sleep(?SPAN_MS),
    Quiet = tell(Client, longest),
    timer:sleep(1 + rand:uniform(2)),
    tell(Client, reset),
    Began = now_ns(),
    {Pause, Version} = upgrade(How, Code),
    Version = gen_server:call(kv, version, infinity),
    timer:sleep(max(5, ?SPAN_MS - (now_ns() - Began) div 1000000)),
    Gap = tell(Client, longest),
    code:purge(kv),
    timer:sleep(5),
    [{"pause", Pause}, {"gap", Gap}, {"whole", tell(Client, longest)}, {"quiet", Quiet}].

%% As release_handler does it: suspend, load, change_code, resume. `prepared`: the code was made ready before.
upgrade(How, Code) ->
    Old = gen_server:call(kv, version, infinity),
    {New, File, Binary} = lists:keyfind(3 - Old, 1, Code),
    Load = case How of
               prepared ->
                   {ok, Ready} = code:prepare_loading([{kv, File, Binary}]),
                   fun() -> ok = code:finish_loading(Ready) end;
               _ -> fun() -> load({New, File, Binary}) end
           end,
    Extra = case How of rewrite -> rewrite; _ -> keep end,
    Began = now_ns(),
    ok = sys:suspend(kv, infinity),
    Load(),
    ok = sys:change_code(kv, kv, Old, Extra, infinity),
    ok = sys:resume(kv, infinity),
    {now_ns() - Began, New}.

load({_, File, Binary}) -> {module, kv} = code:load_binary(kv, File, Binary).

tell(Client, What) ->
    Client ! {What, self()},
    receive {Client, Answer} -> Answer end.

%% full: calls as fast as it can, and keeps the longest time between two answers.
%% beat: ten thousand calls a second, and keeps the longest time from the moment that a call was due to its answer.
client(Parent, Load, Entries) ->
    client(Parent, Load, max(Entries, 1), 0, now_ns(), 0).

client(Parent, Load, Entries, Number, Last, Longest) ->
    receive
        {reset, From} -> From ! {self(), ok}, client(Parent, Load, Entries, Number, now_ns(), 0);
        {longest, From} -> From ! {self(), Longest}, client(Parent, Load, Entries, Number, Last, Longest);
        {stop, From} -> unlink(Parent), From ! {self(), ok}
    after 0 ->
        Since = case Load of
                    full -> Last;
                    beat -> Due = max(Last + 100000, now_ns() - 1000000000), wait_until(Due), Due
                end,
        gen_server:call(kv, {get, Number rem Entries}, infinity),
        Now = now_ns(),
        Next = case Load of full -> Now; beat -> Since end,
        client(Parent, Load, Entries, Number + 1, Next, max(Longest, Now - Since))
    end.

%% The timers count whole milliseconds, so a shorter wait looks at the clock.
wait_until(Due) ->
    case now_ns() >= Due of
        true -> ok;
        false -> erlang:yield(), wait_until(Due)
    end.

timed(F) ->
    Began = now_ns(),
    F(),
    now_ns() - Began.

now_ns() -> erlang:monotonic_time(nanosecond).
